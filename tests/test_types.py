"""The shapes in the signatures are checked in this session, and arrays of different dtypes never mix silently."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from ine_jax import schedulers
from ine_jax.guidance import Cfg, Texts
from ine_jax.guidance.projection import mean_cosine
from ine_jax.pipeline.sampling import sample
from tests.support.toys import ToyDenoiser

TEXT = jnp.ones((2, 5, 4))
TEXTS = Texts(prompt=TEXT, uncond=TEXT)
NOISE = jnp.ones((2, 4, 4, 2))
SAMPLER = schedulers.from_config({"clip_sample": False}, "ddim")


def run(texts: Texts, noise: jax.Array) -> jax.Array:
    return sample(ToyDenoiser(), SAMPLER, SAMPLER.tables(2), Cfg(3.0), texts, noise)


def test_right_shapes_run() -> None:
    assert run(TEXTS, NOISE).shape == NOISE.shape


@pytest.mark.parametrize("noise", [NOISE[0], NOISE[None], jnp.ones((2, 4, 4, 2), jnp.int32)], ids=["3", "5", "int"])
def test_latents_of_another_rank_or_kind_raise(noise: jax.Array) -> None:
    with pytest.raises(TypeCheckError, match="noise"):
        run(TEXTS, noise)


def test_axes_of_one_name_must_agree() -> None:
    with pytest.raises(TypeCheckError, match="uncond"):
        dataclasses.replace(TEXTS, uncond=TEXT[:1])
    with pytest.raises(TypeCheckError, match="mask"):
        mean_cosine(TEXT, TEXT, jnp.ones((2, 6), bool))


def test_a_wrong_result_raises() -> None:
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Flat(Cfg):
        def combine(self, state: object, eps: jax.Array, at: object) -> tuple[jax.Array, object]:
            return eps.reshape(-1), state

    with pytest.raises(TypeCheckError):
        sample(ToyDenoiser(), SAMPLER, SAMPLER.tables(2), Flat(3.0), TEXTS, NOISE)


def test_integers_and_floats_do_not_mix() -> None:
    with pytest.raises(jax.dtypes.TypePromotionError):
        jnp.ones(2) + jnp.ones(2, jnp.int32)
