"""A pipeline's call from Python: what it takes, what it returns, and what it says to a wrong argument."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ine_jax.errors import InputError, InputTypeError
from ine_jax.guidance import Cfg
from ine_jax.pipeline.arguments import DIFFUSERS
from ine_jax.pipeline.pipeline import Pipeline, load
from ine_jax.pipeline.samples import SHOWN, Samples
from tests.support.tiny_pipeline import SIDE
from tests.support.typechecking import unchecked

STEPS = 3


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder, batch_size=4)


def samples(prompts: tuple[str, ...], side: int = 8) -> Samples:
    images = np.random.default_rng(0).integers(0, 256, (len(prompts), side, side, 3), np.uint8)
    return Samples(prompts, tuple(range(len(prompts))), np.zeros((len(prompts), 1, 1, 4), np.float32), images)


def test_one_prompt_serves_several_seeds(pipe: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    made = pipe("a cat", guidance=5, seeds=[7, 3, 9], steps=STEPS)
    assert (made.prompts, made.seeds, len(made)) == (("a cat",) * 3, (7, 3, 9), 3)
    assert capsys.readouterr().err == ""
    alone = pipe(["a cat", "a dog"], guidance=Cfg(5.0), seeds=3, steps=STEPS, progress=True)
    assert "images 2/2" in capsys.readouterr().err
    assert alone.seeds == (3, 4)
    np.testing.assert_array_equal(made.arrays[1], alone.arrays[0])
    np.testing.assert_array_equal(made.latents[1], alone.latents[0])
    assert [image.size for image in made.images] == [(SIDE, SIDE)] * 3
    assert pipe("a cat", noise=np.zeros_like(made.latents[:1]), steps=STEPS).seeds == ()


def test_latents_alone_are_not_decoded(pipe: Pipeline) -> None:
    made = pipe("a cat", steps=STEPS, output="latents")
    np.testing.assert_array_equal(made.latents, pipe("a cat", steps=STEPS).latents)
    with pytest.raises(InputError, match=r"use pipe\.decode"):
        _ = made.images


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "prompts": ({"prompts": 5}, "a text, or several"),
    "a prompt": ({"prompts": ["a cat", 5]}, "a text, or several"),
    "guidance": ({"guidance": "7.5"}, "a number"),
    "negative": ({"negative": 5}, "phrases, or embeddings"),
    "negative_scale": ({"negative": "knife", "negative_scale": "2"}, "a number, or None"),
    "seeds": ({"seeds": "7"}, "a whole number, or several"),
    "a seed": ({"seeds": [1.5]}, "a whole number, or several"),
    "steps": ({"steps": 2.5}, "a whole number"),
    "height": ({"height": "32"}, "a whole number, or None"),
    "embeddings": ({"embeddings": ["file"]}, "a list of Embedding"),
    "noise": ({"noise": 5}, "the name of a generator, or an array"),
    "batch_size": ({"batch_size": True}, "a whole number, or None"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_type_is_named_with_the_allowed_ones(pipe: Pipeline, name: str) -> None:
    given, allowed = WRONG[name]
    with unchecked(), pytest.raises(InputTypeError, match=re.escape(f"allowed: {allowed}")) as error:
        pipe(**{"prompts": "a cat", **given})
    assert isinstance(error.value, TypeError)
    assert name.split()[-1] in error.value.given


@pytest.mark.parametrize("wrong", [{"name": 5}, {"name": "tiny", "batch_size": "8"}])
def test_a_model_of_a_wrong_type_is_rejected(wrong: Any) -> None:
    with unchecked(), pytest.raises(InputTypeError, match=r"allowed: a (bundled|whole)"):
        load(**wrong)


@pytest.mark.parametrize("name", [*DIFFUSERS, "stepz", "scheduler_config"])
def test_an_unknown_name_gets_a_hint(pipe: Pipeline, name: str) -> None:
    hint = {"stepz": "use steps", "scheduler_config": "leave it out"}.get(name) or f"use {DIFFUSERS[name]}"
    options: Any = {name: 5}
    with pytest.raises(TypeError, match=f"unknown argument {name}\n(.|\n)*next: {hint}"):
        pipe(**options)


def test_reprs_are_short(pipe: Pipeline) -> None:
    assert repr(pipe).endswith(f"float32, Ddim, {SIDE} px)") and len(repr(pipe)) < 200
    assert repr(samples(("a",) * 9)) == "Samples(9 images of 8 x 8, seeds 0, 1, 2, 3, 4, 5, 6, 7, ...)"


def test_samples_are_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    import datasets

    made = samples(("a cat", 'a "dog"'))
    files = made.save(tmp_path / "out")
    assert [file.name for file in files] == ["000000_00.png", "000001_00.png"]
    found = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), split="train", cache_dir=str(tmp_path))
    assert [(row["prompt"], row["seed"]) for row in found] == [("a cat", 0), ('a "dog"', 1)]
    np.testing.assert_array_equal(np.asarray(found[1]["image"]), made.arrays[1])
    with pytest.raises(InputError, match="a new or empty folder"):
        made.save(tmp_path / "out")
    with pytest.raises(InputError, match=r"no folder .*absent"):
        made.save(tmp_path / "absent" / "out")


def test_a_notebook_shows_escaped_prompts_and_few_small_images() -> None:
    page = samples(("<script>alert(1)</script>",) * (SHOWN + 2), side=512)._repr_html_()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert page.count("<img") == SHOWN and "and 2 more" in page
    assert len(page) < SHOWN * 40_000  # noise, which compresses badly, at a quarter of its side
