"""From a config to a plan: what is refused before a run directory is made, and what reaches the cells."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest

from ine_jax import cli
from ine_jax.checks import MAX_SEED
from ine_jax.config import (
    ConceptConfig,
    EsdConfig,
    EvaluateConfig,
    GenerateConfig,
    GuardConfig,
    InversionConfig,
    SamplerConfig,
)
from ine_jax.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.evaluate import evaluate, plan_from_config, read_items, score, summarise
from ine_jax.noise import item_seeds
from ine_jax.provenance import file_hash


def prompt_list(folder: Path, seed: int = 0) -> str:
    path = folder / "words.jsonl"
    path.write_text(json.dumps({"prompt": "a cat", "seed": seed}) + "\n")
    return str(path)


def embedding(folder: Path, name: str = "weapon", value: float = 1.0) -> str:
    learned = Embedding(np.full((1, 8), value, np.float32), "token", name, "tiny")
    return str(learned.save(folder / f"{name}.safetensors"))


def test_the_template_of_a_guard_reaches_its_cells(tmp_path: Path) -> None:
    learned = embedding(tmp_path)
    guards = (
        GuardConfig(),
        GuardConfig("bare", "implicit", embedding=learned),
        GuardConfig("framed", "implicit", embedding=learned, template="a photo of a {}"),
    )
    plan = plan_from_config(EvaluateConfig(guards=guards, prompts=(prompt_list(tmp_path),)))
    assert [cell.template for cell in plan.cells] == ["{}", "{}", "a photo of a {}"]
    # the template changes pixels, so it is part of what binds the directory
    assert [cell["template"] for cell in plan.record()["cells"]] == ["{}", "{}", "a photo of a {}"]


def test_two_embeddings_have_two_hashes_in_the_summary(tmp_path: Path) -> None:
    paths = [embedding(tmp_path, "one"), embedding(tmp_path, "two", 2.0)]
    guards = tuple(GuardConfig(f"guard {i}", "implicit", embedding=path) for i, path in enumerate(paths))
    models = ("fake", "fake-unlearned")
    plan = plan_from_config(EvaluateConfig(models=models, guards=guards, prompts=(prompt_list(tmp_path),)))
    run = evaluate(plan, tmp_path / "run", draw=fakes.draw, hashes=fakes.hashes)
    score(run, fakes.Corner(), about=fakes.ABOUT)
    found = summarise(run)["hashes"]["embeddings"]
    assert found == {f"guard {i}": file_hash(path) for i, path in enumerate(paths)}


def test_the_unet_of_the_sampler_reaches_the_model_and_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Any]] = []

    def loaded(name: str, **options: Any) -> Any:
        asked.append((name, options["unet_impl"]))
        return lambda prompts, **_: np.zeros((len(prompts), 8, 8, 3), np.uint8)

    monkeypatch.setattr("ine_jax.pipeline.load", loaded)
    identities = []
    for impl in ("native", "diffusers"):
        config = EvaluateConfig(prompts=(prompt_list(tmp_path),), sampler=SamplerConfig(unet_impl=impl))  # type: ignore[arg-type]
        run = evaluate(plan_from_config(config), tmp_path / impl, hashes=fakes.hashes)
        identities.append(run.rows(0)[0]["identity"])
        assert run.config["sampler"].get("unet_impl", "native") == impl
    assert asked == [("tiny", "native"), ("tiny", "diffusers")]
    assert identities[0] != identities[1]
    with pytest.raises(InputError, match="started with another config"):
        evaluate(plan_from_config(config), tmp_path / "native", hashes=fakes.hashes)


@pytest.mark.parametrize("template", ["", "a photo", "{} and {}", "{ }"])
def test_templates_with_anything_but_one_slot_are_refused(template: str) -> None:
    with pytest.raises(InputError, match="template"):
        GuardConfig(negative="implicit", embedding="e.safetensors", template=template)
    with pytest.raises(InputError, match="template"):
        GenerateConfig(prompts=("a",), embedding="e.safetensors", template=template)


def test_a_template_without_an_embedding_is_refused() -> None:
    with pytest.raises(InputError, match="template"):
        GuardConfig(negative="explicit", words="knife", template="a {}")
    with pytest.raises(InputError, match="template"):
        GenerateConfig(prompts=("a",), negative="knife", template="a {}")


def test_one_limit_of_seeds_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert item_seeds([MAX_SEED], 1)[0] == MAX_SEED
    assert read_items(prompt_list(tmp_path, MAX_SEED))[0].seed == MAX_SEED
    path = prompt_list(tmp_path, MAX_SEED + 1)
    with pytest.raises(InputError, match="line 1"):
        read_items(path)
    assert cli.main(["evaluate", "--prompts", path, "--out", str(tmp_path / "run")]) == 2
    assert str(MAX_SEED) in capsys.readouterr().err
    plan = fakes.plan(n=2)
    large = tuple(dataclasses.replace(item, seed=item.seed + 2**32) for item in plan.lists["attack"])
    with pytest.raises(InputError, match="seed"):
        evaluate(
            dataclasses.replace(plan, lists={**plan.lists, "attack": large}),
            tmp_path / "run",
            draw=fakes.draw,
            hashes=fakes.hashes,
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 2**63, 2**70])
def test_records_have_the_same_limit(seed: int) -> None:
    kinds: list[tuple[Any, dict[str, str]]] = [(kind, {}) for kind in (GenerateConfig, InversionConfig, EsdConfig)]
    for kind, fields in [*kinds, (ConceptConfig, {"concept": "a", "images": "b"})]:
        with pytest.raises(InputError, match="seed"):
            kind(seed=seed, **fields)
        assert kind(seed=MAX_SEED, **fields).seed == MAX_SEED
