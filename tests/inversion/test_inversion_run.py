"""Whole inversions on a tiny random model: what they leave behind, what they reject, many at once."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from ine_jax.cli.artifacts import verified
from ine_jax.config import InversionConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError
from ine_jax.inversion import invert, invert_many, run
from ine_jax.inversion.preview import LABEL, grid, plot_losses, smooth
from ine_jax.inversion.start import first_vectors
from ine_jax.inversion.step import Frozen, inversion_objective
from ine_jax.pipeline.pipeline import Pipeline, load
from ine_jax.training.step import compiled_step, first_state
from tests.support.flips import flip
from tests.support.tiny_pipeline import SIDE, WIDTH

SMALL = InversionConfig(
    concept="thing", steps=4, batch=2, save_every=2, log_every=1, vectors=2, templates=("a {}", "the red {}")
)


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder, batch_size=8, compile_cache=False)


def random_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def every_flip_is_found(folder: Path) -> int:
    """Assert that `ine verify` names every file of a finished directory in which one bit is another; their number."""
    assert not verified(folder).faults
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name[0] != "."]
    for path in files:
        before = flip(path)
        faults = verified(folder).faults  # a flip in a list may make the name of a file in it, or its hash, another
        assert faults and (path.name.startswith("SHA256SUMS") or any(str(path) in fault for fault in faults)), path
        path.write_bytes(before)
    assert not verified(folder).faults
    return len(files)


def test_a_run_leaves_everything_and_changes_no_weight(pipe: Pipeline, tmp_path: Path) -> None:
    before = jax.tree.map(np.array, (pipe.parts.text_params, pipe.parts.unet_params))
    result = invert(pipe, random_images(3), SMALL, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "thing.safetensors", "log.jsonl", "timing.jsonl", "loss.png", "preview.png", "checkpoints",
        "config.json", ".lock", "SHA256SUMS", "SHA256SUMS.times",
    }  # fmt: skip
    loaded = Embedding.load(result.path)
    np.testing.assert_array_equal(loaded.vectors, result.embedding.vectors)
    assert loaded.vectors.shape == (2, WIDTH) and loaded.base_model == pipe.name
    assert set(loaded.provenance) == {"model_id", "images_sha256", "config", "final_loss"}
    assert json.loads(loaded.provenance["config"])["templates"] == ["a {}", "the red {}"]
    assert list(result.steps) == [1, 2, 3, 4] and np.isfinite(result.losses).all()
    preview = np.asarray(Image.open(tmp_path / "preview.png"))
    assert preview.shape[0] == 2 * (LABEL + SIDE + 2) and preview.shape[1] >= 8 * (SIDE + 2)
    assert all((preview[top : top + LABEL] < 128).any() for top in (0, LABEL + SIDE + 2))  # each row has its label
    assert Image.open(tmp_path / "loss.png").size[0] > 300
    jax.tree.map(np.testing.assert_array_equal, before, (pipe.parts.text_params, pipe.parts.unet_params))
    assert every_flip_is_found(tmp_path) > 20
    start = first_vectors(pipe, [SMALL])[0]
    assert 0 < np.abs(np.asarray(loaded.vectors) - start).max() <= 4.1 * SMALL.learning_rate


@pytest.mark.thorough
def test_the_loss_of_a_repeated_batch_falls(pipe: Pipeline) -> None:
    config = dataclasses.replace(SMALL, learning_rate=0.05)
    vectors = jnp.asarray(np.stack(first_vectors(pipe, [config])))
    data = run.training_data(pipe, [random_images(1)], [config], np.asarray(vectors[0]))
    objective = inversion_objective(pipe, config, 1)
    state = first_state(objective, vectors, config.learning_rate)
    frozen = Frozen(pipe.parts.text_params, pipe.parts.unet_params)
    step, losses = compiled_step(objective), []
    for _ in range(20):
        state, metrics = step(frozen, data, state, 0)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[10] < losses[0]


@pytest.mark.thorough
@pytest.mark.parametrize("space", ["token", "context"])
def test_many_concepts_equal_single_runs(pipe: Pipeline, tmp_path: Path, space: Any) -> None:
    configs = [
        dataclasses.replace(SMALL, space=space, concept="one", seed=1),
        dataclasses.replace(SMALL, space=space, concept="two", seed=2, init="knife", steps=3),
        dataclasses.replace(SMALL, space=space, concept="three", seed=1, init="mean"),
    ]
    images = [random_images(3, 1), random_images(2, 2), random_images(4, 3)]
    many = invert_many(pipe, images, configs, tmp_path / "many", preview=False)
    for result, config, own in zip(many, configs, images, strict=True):
        single = invert(pipe, own, config, tmp_path / config.concept, preview=False)
        np.testing.assert_allclose(result.embedding.vectors, single.embedding.vectors, atol=2e-5)
        np.testing.assert_allclose(result.losses, single.losses, rtol=1e-5)
        assert result.path == tmp_path / "many" / config.concept / f"{config.concept}.safetensors"
    assert many[0].embedding.vectors.shape == ((2, WIDTH) if space == "token" else (24, WIDTH))


@pytest.mark.thorough
def test_context_space_writes_a_context_file_and_a_preview(pipe: Pipeline, tmp_path: Path) -> None:
    result = invert(pipe, random_images(2), dataclasses.replace(SMALL, space="context"), tmp_path)
    assert Embedding.load(result.path).space == "context"
    assert (tmp_path / "preview.png").is_file()


@pytest.mark.thorough
def test_the_bare_token_with_several_vectors(pipe: Pipeline, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, templates="bare", vectors=3, init="knife")
    found = np.asarray(invert(pipe, random_images(2), config, tmp_path, preview=False).embedding.vectors)
    moved = found - first_vectors(pipe, [config])[0]
    assert found.shape == (3, WIDTH) and (np.abs(moved).max(axis=1) > 0).all()
    assert not np.allclose(moved[0], moved[1], atol=1e-4)  # each row has a place and a gradient of its own


@pytest.mark.thorough
def test_the_norm_is_held(pipe: Pipeline, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, norm=0.4)
    found = invert(pipe, random_images(2), config, tmp_path, preview=False).embedding.vectors
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 0.4, rtol=1e-5)


@pytest.mark.thorough
def test_a_longer_run_continues_a_shorter_one(pipe: Pipeline, tmp_path: Path) -> None:
    whole = invert(pipe, random_images(2), SMALL, tmp_path / "whole", preview=False)
    invert(pipe, random_images(2), dataclasses.replace(SMALL, steps=3), tmp_path / "parts", preview=False)
    parts = invert(pipe, random_images(2), SMALL, tmp_path / "parts", preview=False)
    assert whole.path.read_bytes() == parts.path.read_bytes()
    assert (tmp_path / "whole/log.jsonl").read_bytes() == (tmp_path / "parts/log.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("change", "field"),
    [({"learning_rate": 0.5}, "learning_rate"), ({"seed": 9}, "seed"), ({"templates": "bare"}, "templates")],
)
def test_another_setting_is_rejected(pipe: Pipeline, tmp_path: Path, change: dict[str, Any], field: str) -> None:
    short = dataclasses.replace(SMALL, steps=1, save_every=1)
    invert(pipe, random_images(2), short, tmp_path, preview=False)
    with pytest.raises(InputError, match=field):
        invert(pipe, random_images(2), dataclasses.replace(short, **change), tmp_path, preview=False)
    with pytest.raises(InputError, match="images_sha256"):
        invert(pipe, random_images(2, seed=7), short, tmp_path, preview=False)


def test_wrong_images_and_configs_are_rejected(pipe: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="uint8"):
        invert(pipe, random_images(2).astype(np.float32), SMALL, tmp_path / "a")
    with pytest.raises(InputError, match="N at least 1"):
        invert(pipe, random_images(0), SMALL, tmp_path / "a")
    with pytest.raises(InputError, match="names that differ"):
        invert_many(pipe, [random_images(1)] * 2, [SMALL, SMALL], tmp_path / "a")
    with pytest.raises(InputError, match="batch: 2 for thing, 3 for other"):
        other = dataclasses.replace(SMALL, concept="other", batch=3)
        invert_many(pipe, [random_images(1)] * 2, [SMALL, other], tmp_path / "a")
    with pytest.raises(InputError, match="one set per concept"):
        invert_many(pipe, [], [], tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_only_the_vectors_have_optimizer_state(pipe: Pipeline, tmp_path: Path) -> None:
    invert(pipe, random_images(1), dataclasses.replace(SMALL, steps=1), tmp_path, preview=False)
    layout = (tmp_path / "checkpoints/1/meta").rglob("*")
    stored = json.loads(next(path for path in layout if path.name == "metadata").read_text())["layout"]
    arrays = {name for name, shape in stored.items() if shape == "float32[1, 2, 16]"}
    assert {name.rpartition(".")[2] for name in arrays} == {"trained", "mu", "nu"}
    assert all(stored[name].endswith("[]") for name in stored.keys() - arrays)  # the rate, and counts


def test_smooth_and_grid() -> None:
    np.testing.assert_allclose(smooth(np.array([1.0, 3.0, np.nan, 5.0]), 2), [1, 2, 3, 5])
    image = grid([("", np.zeros((2, 4, 4, 3), np.uint8)), ("", np.zeros((1, 4, 4, 3), np.uint8))])
    assert image.shape == (2 * LABEL + 12, 12, 3) and (image[2 * LABEL + 6 :, 6:] == 255).all()
    assert (image[:LABEL] == 255).all() and not image[LABEL : LABEL + 4, :4].any()


@pytest.mark.parametrize(("count", "lines"), [(1, 1), (19, 1), (20, 2), (30, 2)])
def test_the_legend_of_the_losses_names_a_mean_only_where_there_is_one(
    count: int, lines: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    legends = []
    monkeypatch.setattr(Axes, "legend", lambda axes, **_: legends.append(axes.get_legend_handles_labels()[1]))
    plot_losses(tmp_path / "loss.png", np.arange(count), np.ones(count), "title")
    assert legends == [["as logged", f"mean of the last {count // 10} values"][:lines]]
