"""What depends on the texts alone is computed once per run, and what depends on the latents alone once per item."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.guidance import Cfg, Texts
from ine_jax.guidance.safree import Reference
from ine_jax.models.unet import UNet, UNetConfig
from ine_jax.pipeline.bench.turns import flops
from ine_jax.pipeline.programs import native_unet
from ine_jax.pipeline.sampling import sample
from ine_jax.schedulers import Ddim, NoiseConfig
from ine_jax.types import Params
from tests.support.tiny_pipeline import random_like

SMALL = UNetConfig(
    sample_size=8,
    block_out_channels=(32,),
    down_block_types=("CrossAttnDownBlock2D",),
    up_block_types=("CrossAttnUpBlock2D",),
    layers_per_block=1,
    attention_head_dim=4,
    cross_attention_dim=48,
)
LAYERS = 4  # one in the down block, one in the middle, two in the up block


def products_by_place(program: str) -> tuple[list[str], list[str]]:
    """Names of the matrix products of attention inside and outside the loop of a compiled program."""
    computations = dict(re.findall(r"^(?:ENTRY )?%?([\w.\-]+) [^\n]*\{$(.*?)^\}", program, re.MULTILINE | re.DOTALL))
    inside: set[str] = set()
    found = set(re.findall(r"\bbody=%?([\w.\-]+)", program))
    while found:
        inside |= found
        text = "".join(computations[name] for name in found)
        found = set(re.findall(r"(?:calls|body|condition|to_apply)=%?([\w.\-]+)", text)) - inside
    places: tuple[list[str], list[str]] = ([], [])
    for name, text in computations.items():
        product = r'^.* (?:dot|custom-call)\(.*op_name="[^"]*/(attn\d/to_\w+)/dot_general"'
        places[0 if name in inside else 1].extend(re.findall(product, text, re.MULTILINE))
    return places


def test_keys_and_values_of_the_texts_are_computed_once() -> None:
    unet, ddim = UNet(SMALL), Ddim(NoiseConfig())
    latents, times, context = jnp.zeros((2, 8, 8, 4)), jnp.zeros((2,)), jnp.zeros((2, 13, 48))
    params = jax.eval_shape(unet.init, jax.random.key(0), latents, times, context)["params"]

    @jax.jit
    def run(params: Params, context: jax.Array, noise: jax.Array) -> jax.Array:
        denoise, texts = functools.partial(jax.jit(native_unet(SMALL, jnp.float32)), params), Texts(context, context)
        return sample(denoise, ddim, ddim.tables(5), Cfg(3.0), texts, noise)

    compiled = run.lower(params, context, latents).compile({"xla_backend_optimization_level": "3"})
    inside, outside = products_by_place(compiled.as_text() or "")
    assert inside.count("attn1/to_k") == inside.count("attn1/to_v") == LAYERS  # the control: these change every step
    assert outside.count("attn2/to_k") == outside.count("attn2/to_v") == LAYERS
    assert not {"attn2/to_k", "attn2/to_v"} & set(inside)


@pytest.mark.thorough
def test_what_precedes_the_first_cross_attention_is_computed_once_per_item() -> None:
    """Three texts for each of two latents give the bits of six rows, by fewer products, with a reference row too."""
    rng = np.random.default_rng(0)
    latents, times = rng.standard_normal((2, 8, 8, 4)).astype(np.float32), np.asarray([3.0, 700.0], np.float32)
    context = rng.standard_normal((6, 13, 48)).astype(np.float32)
    unet = UNet(SMALL)
    shapes = jax.eval_shape(unet.init, jax.random.key(0), latents, times, context[:2])["params"]
    params = random_like(shapes, 1)
    factors, prompt = (1.1, 0.9), jnp.asarray(context[::3])
    for reference in (None, Reference(prompt, jnp.asarray([True, True]), factors, factors, "all", (1,))):

        @jax.jit
        def run(*inputs: jax.Array, reference: Any = reference) -> jax.Array:
            given = inputs if reference is None else (*inputs, reference)
            return native_unet(SMALL, jnp.float32)(params, *given)

        shared = run(latents, times, context)
        apart = run(latents.repeat(3, axis=0), times.repeat(3), context)
        np.testing.assert_array_equal(shared, apart)
        assert len(shared) == (6 if reference is None else 4)
    one, each = (flops(run, latents.repeat(n, axis=0), times.repeat(n), context) for n in (1, 3))
    assert one < 0.95 * each
