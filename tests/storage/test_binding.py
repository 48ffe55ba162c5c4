"""One directory, one run: settings are stored once, compared on the next call, and a difference names its fields."""

import json
from pathlib import Path

import pytest

from ine_jax.errors import InputError
from ine_jax.storage import runs
from ine_jax.storage.binding import bind, difference
from tests.support import fakes

SETTINGS = {"rate": 0.5, "sampler": {"steps": 12, "size": [64, 64]}, "words": ("knife",)}


def test_a_new_directory_keeps_its_settings_and_accepts_them_again(tmp_path: Path) -> None:
    bind(tmp_path / "run", SETTINGS)
    stored = (tmp_path / "run" / "config.json").read_text()
    assert json.loads(stored) == json.loads(json.dumps(SETTINGS))
    bind(tmp_path / "run", dict(reversed(SETTINGS.items())))
    assert (tmp_path / "run" / "config.json").read_text() == stored


def test_other_settings_raise_with_their_fields(tmp_path: Path) -> None:
    bind(tmp_path, SETTINGS, ".settings.json")
    other = SETTINGS | {"sampler": {"steps": 20, "size": [64, 32]}, "new": None}
    with pytest.raises(InputError) as raised:
        bind(tmp_path, other, ".settings.json")
    assert raised.value.given == (
        f"{tmp_path} was started with other settings: sampler.size[1]: 64 -> 32; sampler.steps: 12 -> 20"
    )


def test_the_message_shows_three_fields_and_counts_the_others(tmp_path: Path) -> None:
    bind(tmp_path, {str(k): k for k in range(9)})
    with pytest.raises(InputError, match=r"0: 0 -> 1; 1: 1 -> 2; 2: 2 -> 3; and 6 more\n"):
        bind(tmp_path, {str(k): k + 1 for k in range(9)})


def test_a_run_without_results_is_bound_anew_and_a_reader_writes_nothing(tmp_path: Path) -> None:
    bind(tmp_path, {"a": 1})
    bind(tmp_path, {"a": 2}, fresh=True)
    assert json.loads((tmp_path / "config.json").read_text()) == {"a": 2}
    bind(tmp_path / "other", {"a": 1}, write=False)
    assert not (tmp_path / "other").exists()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": ')
    with pytest.raises(InputError, match=r"config\.json is damaged"):
        bind(tmp_path, {"a": 1})


def test_run_directories_are_bound_by_the_same_rule(tmp_path: Path) -> None:
    config = fakes.plan(n=4).record()
    runs.create(tmp_path, config, {"models": {}})
    with pytest.raises(InputError, match=r"started with other settings: config\.block: 5 -> 6\n"):
        runs.create(tmp_path, {**config, "block": 6}, {"models": {}})


def test_a_missing_field_equals_null_and_long_values_are_cut() -> None:
    assert difference({"a": None}, {}) == []
    (line,) = difference({"prompt": "x" * 200}, {"prompt": ""})
    assert len(line) < 80
