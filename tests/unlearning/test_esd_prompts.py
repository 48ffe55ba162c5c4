"""The prompts of an unlearning run: in the config, or in a file that it names."""

import dataclasses
from pathlib import Path

import pytest

from ine_jax.config import EsdConfig, UnlearnConfig
from ine_jax.config.yaml_file import load
from ine_jax.errors import InputError
from ine_jax.unlearning import prompts
from ine_jax.unlearning.prompts import with_prompts
from tests.support.paths import ROOT


def given(folder: Path, text: str) -> EsdConfig:
    path = folder / "prompts.jsonl"
    path.write_text(text, "utf-8")
    return EsdConfig(prompts_file=str(path))


def test_a_file_is_the_same_as_prompts_in_the_config(tmp_path: Path) -> None:
    rows = ['{"erase": "a cat and a knife", "from": "a cat"}', '{"preserve": "a café"}', "", '{"erase": "a knife"}']
    inline = EsdConfig(erase=("a cat and a knife", "a knife"), erase_from=("a cat", ""), preserve=("a café",))
    assert with_prompts(given(tmp_path, "\n".join(rows) + "\n")) == inline
    plain = with_prompts(given(tmp_path, '{"erase": "a knife", "from": ""}\n'))
    assert plain == EsdConfig(erase=("a knife",))
    assert with_prompts(inline) is inline


@pytest.mark.parametrize(
    "row",
    [
        "a knife", "[]", "3", "null", "{}", '{"prompt": "a knife"}', '{"erase": 3}', '{"erase": "a", "from": null}',
        '{"from": "a cat"}', '{"preserve": "a", "from": "b"}', '{"erase": "a", "preserve": "b"}', "[" * 9999,
    ],
)  # fmt: skip
def test_another_row_is_rejected_by_its_line(tmp_path: Path, row: str) -> None:
    with pytest.raises(InputError, match="line 2") as caught:
        with_prompts(given(tmp_path, '{"erase": "a knife"}\n' + row))
    assert len(str(caught.value).splitlines()) <= 3


def test_a_file_that_cannot_be_read_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = given(tmp_path, '{"erase": "a knife"}\n')
    monkeypatch.setattr(prompts, "MAX_BYTES", 8)
    with pytest.raises(InputError, match="larger than 8 bytes"):
        with_prompts(config)
    Path(config.prompts_file).write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        with_prompts(config)
    with pytest.raises(InputError, match="check the path"):
        with_prompts(EsdConfig(prompts_file=str(tmp_path / "absent.jsonl")))


def test_prompts_are_given_in_one_way() -> None:
    with pytest.raises(InputError, match="prompts_file"):
        EsdConfig(erase=("a knife",), prompts_file="prompts.jsonl")


def test_the_bundled_config_reads_its_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    esd = with_prompts(load(Path("configs/unlearn/tiny-esd.yaml"), UnlearnConfig).esd)
    assert len(esd.erase) == len(esd.erase_from) == 328 and len(esd.preserve) == 300
    assert esd.pool == 2 * len(esd.erase)
    pairs = dict(zip(esd.erase, esd.erase_from, strict=True))
    assert pairs["a photo of a knife"] == ""
    assert dataclasses.asdict(esd)["prompts_file"] == ""
