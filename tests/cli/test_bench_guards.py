"""`ine bench guards`: a ratio for every guard, and no program that only an embedding needs."""

import json
from pathlib import Path

import pytest

from ine_jax.cli.bench import Bench, guards_table
from ine_jax.cli.parsing import parse
from ine_jax.config import BenchConfig, SamplerConfig
from ine_jax.pipeline import bench_guards
from ine_jax.pipeline.pipeline import load


def test_every_guard_has_its_ratio(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {name: bench_guards.GUARDS[name] for name in ("cfg", "sld-max", "casg")}
    monkeypatch.setattr(bench_guards, "GUARDS", chosen)
    pipe = load(tiny_folder, batch_size=2)
    result = bench_guards.measure(pipe, BenchConfig(sampler=SamplerConfig(steps=4, batch=2), repeats=3))
    assert [row["guard"] for row in result["rows"]] == list(chosen)
    for row in result["rows"]:
        assert row["compiles"] == 0
        assert 0 < row["lowest"] <= row["highest"] and row["processor"] > 0
        assert row["ratio"] == pytest.approx(row["implicit_images_per_second"] / row["explicit_images_per_second"])
        assert row["explicit_images_per_second"] > 0 and row["implicit_images_per_second"] > 0
    assert len(guards_table(result)) == 2 + len(chosen)
    assert result["machine"] and result["batch"] == 2
    json.dumps(result)


def test_what_is_timed_is_a_word_and_a_config_is_still_a_file(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text("repeats: 7\n")
    both = parse(["bench", "guards", str(path)])
    assert isinstance(both, Bench)
    assert (both.what, both.config.repeats) == ("guards", 7)
    assert parse(["bench"]) == Bench(what="sampling")
