"""Seeds as published and latents from a file, in `ine generate` and `ine evaluate`: same pixels, own identity."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ine_jax.config import EvaluateConfig, GenerateConfig, ModelConfig, PromptsConfig, SamplerConfig
from ine_jax.errors import InputError
from ine_jax.evaluation import Plan, evaluate, plan_from_config
from ine_jax.pipeline.generation import generate
from ine_jax.pipeline.torch_noise import torch_noise
from ine_jax.storage import runs
from tests.support.tiny_pipeline import CELLS

SEEDS = np.arange(5, 8)
SHAPE = (CELLS, CELLS, 4)
SAMPLER = SamplerConfig(steps=2, batch=2)


def pngs(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*.png"))]


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    np.save(tmp_path / "noise.npy", torch_noise("cpu", SEEDS, SHAPE).transpose(0, 3, 1, 2))
    return tmp_path / "noise.npy"


@pytest.mark.thorough
def test_generate_draws_from_published_seeds_and_from_a_file(tiny_folder: Path, tmp_path: Path, latents: Path) -> None:
    def run(name: str, **sampler: Any) -> list[bytes]:
        settings = dataclasses.replace(SAMPLER, **sampler)
        prompts = ("a cat", "a dog", "knife")
        generate(GenerateConfig(str(tiny_folder), prompts=prompts, sampler=settings, seed=5, out=str(tmp_path / name)))
        return pngs(tmp_path / name)

    ours, cpu, cuda = run("jax"), run("cpu", noise="torch-cpu"), run("cuda", noise="torch-cuda")
    assert len({*ours, *cpu, *cuda}) == 9
    assert run("file", latents=str(latents)) == cpu
    (tmp_path / "file" / "000001_00.png").unlink()
    assert run("file", latents=str(latents)) == cpu  # the missing one starts from its own row
    with pytest.raises(InputError, match="noise"):
        run("cpu")
    np.save(latents, np.load(latents)[::-1])
    with pytest.raises(InputError, match="latents"):
        run("file", latents=str(latents))
    with pytest.raises(InputError, match="3 for 1 items"):
        one = dataclasses.replace(SAMPLER, latents=str(latents))
        generate(GenerateConfig(str(tiny_folder), prompts=("a cat",), sampler=one, out=str(tmp_path / "one")))
    assert not (tmp_path / "one").exists()


def plan(folder: Path, tmp_path: Path, **sampler: Any) -> Plan:
    """Two lists of two and one items, whose seeds are SEEDS."""
    for name, seeds in (("attack", SEEDS[:2]), ("benign", SEEDS[2:])):
        rows = [{"id": f"{name}-{s}", "prompt": "a cat", "seed": int(s)} for s in seeds]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return plan_from_config(
        EvaluateConfig(
            models=(ModelConfig(str(folder)),),
            prompts=(PromptsConfig(str(tmp_path / "attack.jsonl")), PromptsConfig(str(tmp_path / "benign.jsonl"))),
            sampler=dataclasses.replace(SAMPLER, **sampler),
            block=2,
        )
    )


def identities(root: Path) -> list[str]:
    run = runs.open_run(root)
    return [row["identity"] for k in run.blocks() for row in run.rows(k)]


def test_evaluate_draws_from_published_seeds_and_from_a_file(tiny_folder: Path, tmp_path: Path, latents: Path) -> None:
    usual = plan(tiny_folder, tmp_path)
    assert "noise" not in usual.pixels()
    assert "latents" not in usual.pixels()
    asked = {"jax": usual, "cpu": plan(tiny_folder, tmp_path, noise="torch-cpu")}
    asked["file"] = plan(tiny_folder, tmp_path, latents=str(latents))
    for name, each in asked.items():
        evaluate(each, tmp_path / name)
    assert pngs(tmp_path / "file") == pngs(tmp_path / "cpu")
    assert not set(pngs(tmp_path / "jax")) & set(pngs(tmp_path / "cpu"))
    assert len({identity for name in asked for identity in identities(tmp_path / name)}) == 9
    with pytest.raises(InputError, match=r"sampler\.noise"):
        evaluate(asked["cpu"], tmp_path / "jax")
    np.save(latents, np.load(latents)[::-1])
    with pytest.raises(InputError, match=r"sampler\.latents"):
        evaluate(plan(tiny_folder, tmp_path, latents=str(latents)), tmp_path / "file")


def test_latents_and_lists_that_do_not_fit_are_refused(tiny_folder: Path, tmp_path: Path, latents: Path) -> None:
    np.save(latents, np.zeros((2, 4, CELLS, CELLS), np.float32))
    with pytest.raises(InputError, match="2 for 3 items"):
        evaluate(plan(tiny_folder, tmp_path, latents=str(latents)), tmp_path / "run")
    for wrong in ({"noise": "torch-cpu", "latents": "a.npy"}, {"latents": "a.pt"}):
        with pytest.raises(InputError, match="latents"):
            SamplerConfig(**wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()
