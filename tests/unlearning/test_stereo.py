"""STEREO: its target against NumPy, what each round starts from, exact resume in every part, and rejected input."""

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.config import StereoConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import InputError, Interrupted
from ine_jax.pipeline.pipeline import Pipeline, load
from ine_jax.pipeline.programs import native_unet
from ine_jax.unlearning import stereo
from ine_jax.unlearning.prompts import with_prompts
from ine_jax.unlearning.result import WEIGHTS

SMALL = StereoConfig(
    erase=("a knife",), anchors=("a knife and a cat", "a knife and a dog"), method="esd-x-strict", rounds=2, pool=3,
    erase_steps=2, inversion_steps=2, ddim_steps=2, save_every=1, log_every=1, learning_rate=1e-3, search_eta=0.5,
    search_learning_rate=1e-3,
)  # fmt: skip


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder, batch_size=4, compile_cache=False)


@pytest.mark.thorough
def test_the_target_is_compositional_guidance(pipe: Pipeline) -> None:
    prompts = ["a knife", "a weapon"]
    contexts, anchors, empty = pipe.encode(prompts), pipe.encode(list(SMALL.anchors)), pipe.encode([""])
    pool = stereo.anchored_pool(pipe, dataclasses.replace(SMALL, scale=1.5), contexts)
    unet = jax.jit(native_unet(pipe.parts.unet_config, jnp.float32))
    every = np.concatenate([empty, anchors, contexts])
    matched = set()
    for i, s in np.ndindex(3, 2):
        points = jnp.repeat(pool.latents[i, s][None], len(every), 0)
        times = jnp.full(len(every), pool.timesteps[s])
        eps = np.asarray(unet(pipe.parts.unet_params, points, times, jnp.asarray(every)), np.float64)
        u, negatives = eps[0], eps[3:]
        wanted = [u + 0.5 * (a - u) - 2.5 * np.mean([n - u for n in negatives], 0) for a in eps[1:3]]
        errors = [np.abs(pool.targets[i, s] - each).max() for each in wanted]
        assert min(errors) < 1e-4 < max(errors)
        matched.add((i, int(np.argmin(errors))))
    assert len(matched) == 3 and len({anchor for _, anchor in matched}) == 2  # one anchor for a trajectory, both used


def test_prompts_anchors_and_images_are_dealt_out_evenly() -> None:
    indices = stereo.dealt(np.random.default_rng(0), 3, 11)
    assert sorted(np.bincount(indices)) == [3, 4, 4] and list(indices) != sorted(indices)
    images = np.arange(7)
    shares = [set(stereo.share(images, k, 3)) for k in range(3)]
    assert [len(each) for each in shares] == [2, 2, 2] and not shares[0] & shares[1] | shares[1] & shares[2]
    assert list(stereo.share(images[:1], 2, 3)) == [0]


class StopAt:
    """Asks to stop when a step of the whole run is shown."""

    def __init__(self, step: int) -> None:
        self.step, self.shown = step, list[int]()

    def update(self, step: int, metrics: object) -> None:
        self.shown.append(step)
        if step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.thorough
def test_every_part_continues_exactly_and_each_round_starts_from_the_last(pipe: Pipeline, tmp_path: Path) -> None:
    all_of_it = StopAt(0)
    stereo.unlearn(pipe, SMALL, tmp_path / "whole", all_of_it)
    assert all_of_it.shown == list(range(1, SMALL.steps + 1))
    for step in (3, 5, 9):  # in the first inversion, the second erasure, the second stage
        with pytest.raises(Interrupted):
            stereo.unlearn(pipe, SMALL, tmp_path / "cut", StopAt(step))
    stereo.unlearn(pipe, SMALL, tmp_path / "cut")
    found = [f"search-{k}/invert/found-{k}.safetensors" for k in range(2)]
    for name in (WEIGHTS, "log.jsonl", "SHA256SUMS", *found):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    sums = (tmp_path / "whole" / "SHA256SUMS").read_text("utf-8")
    assert all(name in sums for name in (WEIGHTS, *found))
    settings = [json.loads((tmp_path / f"whole/search-{k}/erase/config.json").read_text("utf-8")) for k in range(2)]
    assert [each["esd"]["erase"] for each in settings] == [["a knife"], ["<found-0>"]]
    first, second = (each["model_id"] for each in settings)
    assert first == pipe.model_id != second
    vectors = [Embedding.load(tmp_path / "whole" / name).vectors for name in found]
    assert not np.allclose(*vectors)


def test_anchors_come_from_a_file_as_published(tmp_path: Path) -> None:
    path = tmp_path / "anchors.json"
    path.write_text(json.dumps({"a knife": list(SMALL.anchors), "a dog": ["x"]}), "utf-8")
    named = dataclasses.replace(SMALL, anchors=(), anchors_file=str(path))
    assert with_prompts(named) == SMALL
    for text in ("[]", "{", '{"a cat": ["x"]}', '{"a knife": "x"}', '{"a knife": []}', '{"a knife": [1]}'):
        path.write_text(text, "utf-8")
        with pytest.raises(InputError, match="anchors_file"):
            with_prompts(named)


@pytest.mark.parametrize("change", [{"erase": ()}, {"anchors": ()}, {"images": "nowhere"}])
def test_wrong_input_is_rejected(pipe: Pipeline, tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        stereo.unlearn(pipe, dataclasses.replace(SMALL, **change), tmp_path / "new")
    assert not (tmp_path / "new").exists()
