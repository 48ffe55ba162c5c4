"""The record of compile times: a line only for what is known, and never a failure."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from ine_jax.pipeline import compile_times
from ine_jax.pipeline.compile_times import NAME, compiling


def test_a_line_is_printed_for_what_is_known_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with compiling("p"):  # without a cache
        pass
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(compile_times, "cache_folder", lambda: tmp_path)
    with compiling("p"):
        pass
    assert capsys.readouterr().err == ""
    assert json.loads((tmp_path / NAME).read_text()) == {"p": 0.0}
    (tmp_path / NAME).write_text(json.dumps({"p": 33.7, "q": 1.9, "r": "long"}))
    for program in ("p", "q", "r", "s"):
        with compiling(program):
            pass
    assert capsys.readouterr().err == "compiling (about 34 s, as last time)\n"
    assert set(json.loads((tmp_path / NAME).read_text())) == {"p", "q", "s", "r"}
    (tmp_path / NAME).write_text("{")
    with compiling("p"):
        pass
    assert json.loads((tmp_path / NAME).read_text()) == {"p": 0.0}


def test_the_time_of_xla_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_times, "cache_folder", lambda: tmp_path)
    before = compile_times._Xla.seconds
    with compiling("p"):
        jax.jit(lambda x: jnp.sin(x) * 3)(jnp.arange(5.0)).block_until_ready()
    assert compile_times._Xla.seconds > before  # XLA compiled
    clock = iter((0.0, 50.0))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with compiling("p"):
        compile_times._Xla.seconds += 30.0
    assert json.loads((tmp_path / NAME).read_text()) == {"p": 20.0}
