"""From a config to a plan: what is refused before a run directory is made, and what reaches the cells."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ine_jax.cli import main as cli
from ine_jax.config import (
    ConceptConfig,
    EsdConfig,
    EvaluateConfig,
    GenerateConfig,
    GuardConfig,
    GuidanceConfig,
    InversionConfig,
    ModelConfig,
    NegativeConfig,
    PromptsConfig,
    SamplerConfig,
)
from ine_jax.config.checks import MAX_SEED
from ine_jax.config.guards import SafeDenoiserConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.evaluation import Cell, Plan, evaluate, plan_from_config, read_items, score, summarise
from ine_jax.evaluation.images import ImageGenerator
from ine_jax.pipeline.noise import item_seeds
from ine_jax.prompts.items import Item
from ine_jax.storage.provenance import file_hash
from scripts.train_world.manifest import write_manifest
from tests.support import fakes


def prompt_list(folder: Path, seed: int = 0) -> str:
    path = folder / "words.jsonl"
    path.write_text(json.dumps({"prompt": "a cat", "seed": seed}) + "\n")
    return str(path)


class AskedError(Exception):
    """Raised where a model would be loaded."""


def noise(cell: Cell, wanted: Sequence[Item], plan: Plan) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (len(wanted), 8, 8, 3), np.uint8)


def embedding(folder: Path, name: str = "weapon", value: float = 1.0) -> str:
    learned = Embedding(np.full((1, 8), value, np.float32), "token", name, "tiny")
    return str(learned.save(folder / f"{name}.safetensors"))


def grid(
    folder: Path, guards: tuple[GuardConfig, ...], negatives: tuple[NegativeConfig, ...], **more: Any
) -> EvaluateConfig:
    return EvaluateConfig(guards=guards, negatives=negatives, prompts=(PromptsConfig(prompt_list(folder)),), **more)


def test_every_model_has_every_guard_with_every_negative(tmp_path: Path) -> None:
    guards = (GuardConfig("cfg", GuidanceConfig(3.0)), GuardConfig("sld", GuidanceConfig(3.0, method="sld")))
    negatives = (NegativeConfig(words="knife"), NegativeConfig(words=("gun", "bomb"), name="two"))
    models = (ModelConfig("tiny"), ModelConfig("tiny-unlearned-0"))
    plan = plan_from_config(grid(tmp_path, guards, negatives, models=models))
    assert [(c.model, c.negative, c.guard, c.guidance) for c in plan.cells] == [
        (model, negative, guard.name, guard.guidance)
        for model in ("tiny", "tiny-unlearned-0")
        for guard in guards
        for negative in negatives
    ]
    words = [cell["words"] for cell in plan.record()["cells"]]
    assert words[:4] == 2 * [["knife"], ["gun", "bomb"]]


def test_own_is_the_embedding_of_each_model_and_origins_are_known(tmp_path: Path) -> None:
    files = [embedding(tmp_path, name, value) for name, value in (("a", 1.0), ("b", 2.0))]
    models = (ModelConfig("tiny", embedding=files[0]), ModelConfig("tiny-unlearned-0", embedding=files[1]))
    guards = (GuardConfig("cfg", GuidanceConfig(3.0)),)
    negatives = (NegativeConfig(embedding="own"), NegativeConfig(embedding=files[1], name="second"))
    plan = plan_from_config(grid(tmp_path, guards, negatives, models=models))
    found = [(cell["model"], cell["embeddings"], cell["embedding_from"]) for cell in plan.record()["cells"]]
    a, b = ([file_hash(file)] for file in files)
    assert found == [
        ("tiny", a, "tiny"),
        ("tiny", b, "tiny-unlearned-0"),
        ("tiny-unlearned-0", b, "tiny-unlearned-0"),
        ("tiny-unlearned-0", b, "tiny-unlearned-0"),
    ]
    with pytest.raises(InputError, match="own"):
        plan_from_config(grid(tmp_path, guards, negatives, models=(*models, ModelConfig("tiny-unlearned-1"))))


def test_without_a_negative_plain_guidance_is_generated_once_for_each_scale(tmp_path: Path) -> None:
    settings = (
        GuidanceConfig(3.0),
        GuidanceConfig(3.0, 4.0),
        GuidanceConfig(3.0, method="sld"),
        GuidanceConfig(5.0, method="safree", interval=(0.0, 0.5)),
    )
    guards = tuple(GuardConfig(f"guard {i}", one) for i, one in enumerate(settings))
    plan = plan_from_config(grid(tmp_path, guards, (NegativeConfig(), NegativeConfig(words="knife"))))
    plain = [cell for cell in plan.cells if cell.negative.kind == "none"]
    assert [(cell.guard, cell.guidance) for cell in plain] == [("cfg", GuidanceConfig(w)) for w in (3.0, 5.0)]
    assert [cell.guard for cell in plan.cells if cell.negative.kind == "explicit"] == [g.name for g in guards]


def test_a_guard_of_images_acts_without_a_negative(tmp_path: Path) -> None:
    guidance = GuidanceConfig(3.0, method="safe-denoiser")
    guards = (GuardConfig("images", guidance), GuardConfig("cfg", GuidanceConfig(3.0)))
    plan = plan_from_config(grid(tmp_path, guards, (NegativeConfig(),)))
    assert [(cell.guard, cell.guidance) for cell in plan.cells] == [("images", guidance), ("cfg", GuidanceConfig(3.0))]


def test_images_of_a_guard_are_named_by_their_content_and_must_be_there(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "moved", "other")]
    for folder, colour in zip(folders, ("red", "red", "blue"), strict=True):
        folder.mkdir()
        Image.new("RGB", (8, 8), colour).save(folder / "a.png")
    guards = [
        GuardConfig("images", GuidanceConfig(method="safe-denoiser", safe_denoiser=SafeDenoiserConfig(str(folder))))
        for folder in [*folders, tmp_path / "absent"]
    ]
    plans = [plan_from_config(grid(tmp_path, (guard,), (NegativeConfig(),))) for guard in guards]
    first, moved, other = (plan.record()["cells"] for plan in plans[:3])
    assert first == moved != other
    with pytest.raises(InputError, match="absent"):
        evaluate(plans[3], tmp_path / "run", generate=fakes.generate, hashes=fakes.hashes)
    assert not (tmp_path / "run").exists()


def test_a_bundled_embedding_is_given_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ine_jax.assets.ROOT", tmp_path)
    bundled = tmp_path / "tiny" / "embeddings"
    bundled.mkdir(parents=True)
    path = embedding(bundled, "tiny-unlearned-0")
    write_manifest(tmp_path)
    negatives = tuple(NegativeConfig(name=f"{i}", embedding=e) for i, e in enumerate(("tiny-unlearned-0", path)))
    plan = plan_from_config(grid(tmp_path, (GuardConfig(),), negatives))
    assert [cell["embeddings"] for cell in plan.record()["cells"]] == [[file_hash(path)]] * 2
    for missing in ("tiny-unlearned-7", str(tmp_path / "none.safetensors")):
        plan = plan_from_config(grid(tmp_path, (GuardConfig(),), (NegativeConfig(embedding=missing),)))
        with pytest.raises(InputError, match="embedding"):
            evaluate(plan, tmp_path / "run", generate=fakes.generate, hashes=fakes.hashes)
    assert not (tmp_path / "run").exists()


def test_names_differ(tmp_path: Path) -> None:
    guards = (GuardConfig("a"), GuardConfig("a", GuidanceConfig(3.0)))
    with pytest.raises(InputError, match="guards: two are named 'a'\nallowed: guards whose names differ"):
        grid(tmp_path, guards, (NegativeConfig(),))
    one, two = NegativeConfig(words="knife"), NegativeConfig(words="gun")
    for clash in ((one, two), (NegativeConfig(name="explicit"), one)):
        with pytest.raises(InputError, match="negatives whose names differ"):
            grid(tmp_path, (GuardConfig(),), clash)
    assert grid(tmp_path, (GuardConfig(),), (one, dataclasses.replace(two, name="gun"))).negatives[1].name == "gun"


def test_the_template_of_a_negative_reaches_its_cells(tmp_path: Path) -> None:
    learned = embedding(tmp_path)
    negatives = (
        NegativeConfig(),
        NegativeConfig("bare", embedding=learned),
        NegativeConfig("framed", embedding=learned, template="a photo of a {}"),
    )
    plan = plan_from_config(grid(tmp_path, (GuardConfig(),), negatives))
    assert [cell.negative.template for cell in plan.cells] == ["{}", "{}", "a photo of a {}"]
    # the template changes pixels, so it is part of what binds the directory
    assert [cell["template"] for cell in plan.record()["cells"]] == ["{}", "{}", "a photo of a {}"]


def test_names_change_no_pixel(tmp_path: Path) -> None:
    learned = embedding(tmp_path)
    identities = []
    for i, name in enumerate(("", "found", "found again")):
        negative = NegativeConfig(name=name, embedding=learned, template="a {}" if i == 2 else "{}")
        plan = plan_from_config(grid(tmp_path, (GuardConfig(f"guard {name}"),), (negative,)))
        cells = tuple(dataclasses.replace(cell, embedding_from=name) for cell in plan.cells)
        plan = dataclasses.replace(plan, cells=cells)
        run = evaluate(plan, tmp_path / str(i), generate=fakes.generate, hashes=fakes.hashes)
        identities.append(run.rows(0)[0]["identity"])
    assert identities[0] == identities[1] != identities[2]


def test_two_embeddings_have_two_hashes_in_the_summary(tmp_path: Path) -> None:
    paths = [embedding(tmp_path, "one"), embedding(tmp_path, "two", 2.0)]
    negatives = (NegativeConfig("first", embedding=paths[0]), NegativeConfig("both", embedding=tuple(paths)))
    models = (ModelConfig("fake"), ModelConfig("fake-unlearned"))
    plan = plan_from_config(grid(tmp_path, (GuardConfig(),), negatives, models=models))
    run = evaluate(plan, tmp_path / "run", generate=fakes.generate, hashes=fakes.hashes)
    score(run, [fakes.Corner()])
    found = summarise(run)["hashes"]["embeddings"]
    assert found == {"first": [file_hash(paths[0])], "both": [file_hash(path) for path in paths]}


@pytest.mark.usefixtures("fake_types")
def test_the_unet_of_the_sampler_reaches_the_model_and_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Any]] = []

    def loaded(name: str, **options: Any) -> Any:
        asked.append((name, options["unet_impl"]))
        raise AskedError

    monkeypatch.setattr("ine_jax.pipeline.pipeline.load", loaded)
    identities = []
    for impl in ("native", "diffusers"):
        config = EvaluateConfig(prompts=(PromptsConfig(prompt_list(tmp_path)),), sampler=SamplerConfig(unet_impl=impl))  # type: ignore[arg-type]
        plan = plan_from_config(config)
        with pytest.raises(AskedError):
            ImageGenerator().check(plan.cells[0], plan)
        run = evaluate(plan, tmp_path / impl, generate=noise, hashes=fakes.hashes)
        identities.append(run.rows(0)[0]["identity"])
        assert run.config["sampler"].get("unet_impl", "native") == impl
    assert asked == [("tiny", "native"), ("tiny", "diffusers")]
    assert identities[0] != identities[1]
    with pytest.raises(InputError, match="started with other settings"):
        evaluate(plan, tmp_path / "native", generate=noise, hashes=fakes.hashes)


@pytest.mark.parametrize("template", ["", "a photo", "{} and {}", "{ }"])
def test_templates_with_anything_but_one_slot_are_refused(template: str) -> None:
    with pytest.raises(InputError, match="template"):
        NegativeConfig(embedding="e.safetensors", template=template)


def test_a_template_without_an_embedding_is_refused() -> None:
    with pytest.raises(InputError, match="template"):
        NegativeConfig(words="knife", template="a {}")


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
            generate=fakes.generate,
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
