"""``place:0.8``: a LoRA added 0.8 times, against a plain sum."""

from pathlib import Path

import numpy as np
import pytest

from ine_jax.errors import InputError
from ine_jax.models.checkpoints import hub, pipeline_folder
from tests.support import layouts
from tests.support.base_model import base, states  # noqa: F401  fixtures
from tests.support.cases import sample
from tests.support.layouts import Base


def plain_sum(base: Base, new: layouts.Twin, times: float) -> layouts.State:
    """W + times · (what the LoRA adds), in float64."""
    old = base.states["unet"]
    return {k: old[k] + times * (new["unet"][k].astype(np.float64) - old[k]) for k in new["unet"]}


@pytest.mark.parametrize("layout", ["duo_single", "duo_fourfold", "kohya"])
@pytest.mark.parametrize("times", sample(["0.8", "-1", "2.5e-1"], ("-1",)))
def test_a_lora_is_added_that_many_times(layout: str, times: str, base: Base, tmp_path: Path) -> None:
    path, new = layouts.LAYOUTS[layout](base, tmp_path)
    loaded = pipeline_folder.read_pipeline(base.folder, unlearned=[f"{path}:{times}"])
    got = states(loaded)["unet"]
    for key, value in plain_sum(base, new, float(times)).items():
        np.testing.assert_allclose(got[key], value, rtol=0, atol=4e-6, err_msg=key)
    assert all(f"LoRA added {float(times):g} times to" in line for line in loaded.changes)
    assert {key.split("/")[0] for key in loaded.hashes if "unlearned" in key} == {f"unlearned-0:{float(times)!r}"}


def test_two_loras_of_which_one_is_weighted(base: Base, tmp_path: Path) -> None:
    one, new = layouts.duo_single(base, tmp_path / "a")
    two, both = layouts.duo_released(base, tmp_path / "b")
    got = states(pipeline_folder.read_pipeline(base.folder, unlearned=[str(one), f"{two}:0.5"]))["unet"]
    for key, value in plain_sum(base, both, 0.5).items():
        np.testing.assert_allclose(got[key], value + new["unet"][key] - base.states["unet"][key], rtol=0, atol=4e-6)
    once = pipeline_folder.read_pipeline(base.folder, unlearned=[f"{one}:1"])
    assert once.hashes == pipeline_folder.read_pipeline(base.folder, unlearned=[one]).hashes


def test_a_file_of_that_very_name_is_a_file(base: Base, tmp_path: Path) -> None:
    path, _ = layouts.duo_peft(base, tmp_path)
    named = path.rename(tmp_path / "lora:0.5")
    folder = tmp_path / "lora:2"
    folder.mkdir()
    named.rename(folder / "pytorch_lora_weights.safetensors")
    (found,), _ = hub.open_checkpoints([str(folder)])
    assert found.times == 1
    (found,), files = hub.open_checkpoints([f"{folder}:2"])
    assert found.times == 2 and list(files) == ["unlearned-0:2.0/pytorch_lora_weights.safetensors"]


@pytest.mark.parametrize("times", ["0.8", "1e999"])
def test_weights_have_no_multiplier(times: str, base: Base, tmp_path: Path) -> None:
    path, _ = layouts.uce_partial(base, tmp_path)
    lora, _ = layouts.duo_peft(base, tmp_path / "lora")
    for place in [path, lora] if times == "1e999" else [path]:
        with pytest.raises(InputError, match="times") as caught:
            hub.open_checkpoints([f"{place}:{times}"])
        assert len(str(caught.value).splitlines()) <= 3
    with pytest.raises(InputError, match="no such file"):
        hub.open_checkpoints([f"{tmp_path}/absent.safetensors:{times}"])
