"""Every guard in the pipeline, with words and with an embedding: one program for both; images belong to items."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from ine_jax.config import GuidanceConfig
from ine_jax.config.guards import SafeDenoiserConfig, SafreeConfig, SldConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.guidance import Cfg, Negative, Safree, Sld
from ine_jax.guidance import from_config as guards
from ine_jax.guidance.concept import Concept
from ine_jax.guidance.safree import Overlong
from ine_jax.models.layers import sinusoidal_embedding
from ine_jax.pipeline.pipeline import Pipeline, load
from tests.support.cases import sample
from tests.support.tiny_pipeline import SIDE, WIDTH

W, STEPS = 3.0, 4
PROMPTS = ["a photo of a cat", "knife", ""]
METHODS = {
    "cfg": GuidanceConfig(W),
    "negative": GuidanceConfig(W, 4.0),
    "gated": GuidanceConfig(W, 4.0, "gated"),
    "sld-medium": GuidanceConfig(W, method="sld", sld=SldConfig(warmup_unit="fraction")),
    "sld-weak": GuidanceConfig(W, method="sld", sld=SldConfig("weak", warmup_unit="fraction")),
    "safree": GuidanceConfig(W, method="safree"),
    "safree-all": GuidanceConfig(W, method="safree", inner="negative", safree=SafreeConfig(reattention="all")),
    "dng": GuidanceConfig(W, method="dng"),
    "casg": GuidanceConfig(W, 4.0, "casg"),
    "safe-denoiser": GuidanceConfig(W, 4.0, "safe-denoiser"),
    "interval": GuidanceConfig(W, 4.0, interval=(0.25, 0.75)),
}


SLOTS = ("negative", "safree-all", "casg")  # each reads the concept from another slot


def methods(*ordinary: str) -> pytest.MarkDecorator:
    """Return the parametrisation over all guards, of which the ordinary suite runs these."""
    return pytest.mark.parametrize("name", sample(METHODS, ordinary))


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder, batch_size=2)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("concept")
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return str(folder)


def learned(seed: int = 0, size: int = 1) -> Embedding:
    return Embedding(np.random.default_rng(seed).standard_normal((size, WIDTH)).astype(np.float32), concept=f"c{seed}")


def record(name: str, images: str) -> GuidanceConfig:
    if name != "safe-denoiser":
        return METHODS[name]
    return GuidanceConfig(W, 4.0, "safe-denoiser", safe_denoiser=SafeDenoiserConfig(images, from_timestep=0.0))


@methods(*SLOTS)
def test_words_and_an_embedding_run_one_program(name: str, pipe: Pipeline, images: str) -> None:
    guard = guards.guidance(record(name, images), True, pipe)
    explicit, implicit = Concept(words=("knife", "cat")), Concept(embeddings=(learned(0), learned(1)))

    def draw(concept: Concept, prompts: list[str] = PROMPTS, seeds: list[int] | None = None) -> np.ndarray:
        places = seeds or list(range(len(prompts)))
        return pipe(prompts, guidance=guard, negative=concept, seeds=places, steps=STEPS, output="latents").latents

    words = draw(explicit)
    before = pipe.compiles
    found = draw(implicit)
    assert pipe.compiles == before
    assert np.isfinite(words).all() and np.isfinite(found).all()
    if name != "dng":  # its posterior starts at 0.01, and four random steps need not move it
        assert np.abs(words - found).max() > 1e-3
    alone = draw(implicit, PROMPTS[1:2], [1])
    np.testing.assert_allclose(alone[0], found[1], atol=2e-5)
    assert pipe.compiles == before


@methods(*SLOTS)
def test_an_embedding_of_a_words_own_rows_acts_like_the_word(name: str, pipe: Pipeline, images: str) -> None:
    table = np.asarray(pipe.parts.text_params["text_model"]["embeddings"]["token_embedding"]["embedding"])
    same = Embedding(table[pipe.tokenizer.word_ids("knife")], concept="same")
    guard = guards.guidance(record(name, images), True, pipe)
    found, word = (
        pipe(PROMPTS, guidance=guard, negative=concept, steps=STEPS, output="latents").latents
        for concept in (
            Concept(embeddings=(same,), template="a photo of a {}"),
            Concept(words=("a photo of a knife",)),
        )
    )
    np.testing.assert_allclose(found, word, atol=1e-4)


@pytest.mark.thorough
def test_presets_of_equal_rows_share_a_program(pipe: Pipeline) -> None:
    counts = []
    for preset in ("medium", "strong", "max"):
        guard = guards.guidance(GuidanceConfig(W, method="sld", sld=SldConfig(preset)), True, pipe)  # type: ignore[arg-type]
        pipe("cat", guidance=guard, negative="knife", seeds=5, steps=STEPS)
        counts.append(pipe.compiles)
    assert counts[0] == counts[2]


@pytest.mark.thorough
def test_scales_negatives_and_models_share_a_loop(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 guards x 3 scales x 3 negatives x 2 models: a loop per guard, the network traced once per number of rows."""
    grid = {name: METHODS[name] for name in ("cfg", "safree", "casg")}  # 2, 2 and 3 rows: casg has one entry
    grid["sld-max"] = GuidanceConfig(W, method="sld", sld=SldConfig("max"))  # 3 rows
    halved = jax.tree.map(lambda values: 0.5 * values, pipe.parts.unet_params)
    models = pipe, pipe.with_unet(halved)
    traced = []

    def features(timesteps: jax.Array, *rest: Any) -> jax.Array:
        traced.append(timesteps.shape)
        return sinusoidal_embedding(timesteps, *rest)

    monkeypatch.setattr("ine_jax.models.unet.sinusoidal_embedding", features)
    before = pipe.programs.traces["sample"]
    images = set()
    for guard, scale, negative, model in itertools.product(
        grid.values(), (2.0, W, 5.0), ("knife", "a red apple", learned()), models
    ):
        chosen = guards.guidance(dataclasses.replace(guard, scale=scale), True, model)
        options: Any = {"guidance": chosen, "negative": negative, "batch_size": 7, "steps": 2, "output": "latents"}
        images.add(model("a knife", **options).latents.tobytes())
    assert len(images) > 3 * 18  # a setting reaches its image; SAFREE leaves prompts alone that lack the concept
    assert pipe.programs.traces["sample"] - before == len(grid)
    assert traced == [(7,), (7,)]  # twice: for 2 and for 3 rows of 7 items, which no other test has


def test_safree_of_a_prompt_of_the_concept_itself_is_projected(pipe: Pipeline) -> None:
    """SAFREE changes a prompt that names the concept, and not one without tokens."""
    plain = pipe(["knife", ""], guidance=Cfg(W), steps=STEPS, seeds=3, output="latents").latents
    safe = pipe(
        ["knife", ""], guidance=Safree(Cfg(W)), negative="knife", steps=STEPS, seeds=3, output="latents"
    ).latents
    assert np.abs(plain[0] - safe[0]).max() > 1e-3
    np.testing.assert_allclose(plain[1], safe[1], atol=2e-5)
    nothing = pipe(["knife", ""], guidance=Safree(Cfg(W)), steps=STEPS, seeds=3, output="latents").latents
    np.testing.assert_allclose(nothing, plain, atol=2e-5)


def test_the_negative_in_cfg_is_a_switch(pipe: Pipeline) -> None:
    def draw(guard: Safree | Cfg, prompt: str = "") -> np.ndarray:
        return pipe(prompt, guidance=guard, negative="knife", steps=STEPS, seeds=3, output="latents").latents

    np.testing.assert_allclose(draw(Safree(Cfg(W), negative_in_cfg=True)), draw(Cfg(W)), atol=2e-5)
    assert np.abs(draw(Safree(Cfg(W))) - draw(Cfg(W))).max() > 1e-3


def test_sld_without_strength_is_plain_guidance(pipe: Pipeline) -> None:
    plain = pipe("cat", guidance=Cfg(W), steps=STEPS, seeds=3, output="latents").latents
    off = pipe("cat", guidance=Sld(W, 0.0), negative="knife", steps=STEPS, seeds=3, output="latents").latents
    np.testing.assert_allclose(off, plain, atol=2e-5)


def test_a_bank_of_one_is_the_guard_inside(pipe: Pipeline) -> None:
    casg = guards.guidance(METHODS["casg"], True, pipe)
    one = pipe("cat", guidance=casg, negative="knife", steps=STEPS, seeds=3, output="latents").latents
    inner = pipe("cat", guidance=Negative(W, 4.0), negative="knife", steps=STEPS, seeds=3, output="latents").latents
    np.testing.assert_allclose(one, inner, atol=2e-5)


@pytest.mark.thorough
def test_a_prompt_that_is_cut_has_triggers_only_with_an_end_token(pipe: Pipeline) -> None:
    """`overlong` reaches the program: it changes the prompt that is cut, and not its neighbour."""
    prompts = ["knife cat dog apple " * pipe.tokenizer.max_length, "a knife and a cat"]
    assert pipe.tokenizer.truncated(prompts) == [True, False]

    def latents(mode: Overlong) -> np.ndarray:
        guard = Safree(Cfg(W), overlong=mode, validate=False)
        return pipe(prompts, guidance=guard, negative="knife", steps=STEPS, seeds=3, output="latents").latents

    released, ended = latents("as-released"), latents("end-token")
    plain = pipe(prompts, guidance=Cfg(W), steps=STEPS, seeds=3, output="latents").latents
    np.testing.assert_allclose(released[0], plain[0], atol=1e-4)
    assert np.abs(ended[0] - plain[0]).max() > 1e-3
    np.testing.assert_array_equal(released[1], ended[1])
