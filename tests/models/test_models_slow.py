"""One step of a full-size Stable Diffusion 1.x UNet with random weights, really run on the CPU.

``pytest -m slow tests/models/test_models_slow.py -s`` prints seconds and peak memory; it needs about 6 GB.
"""

import resource
import sys
import time

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.models.checkpoints import configs, names
from ine_jax.models.unet import UNet, UNetConfig
from tests.support.published import CONFIGS, COUNTS


def random_params(config: UNetConfig) -> tuple[dict, int]:
    """Scaled normal weights in float32, made leaf by leaf; and their number."""
    generator, flat = np.random.Generator(np.random.SFC64(0)), {}
    for path, shape in names.parameter_shapes(config).items():
        values = generator.standard_normal(shape, dtype=np.float32)
        if path[-1] == "kernel":
            values *= np.float32(np.prod(shape[:-1]) ** -0.5)
        else:
            values *= np.float32(0.1)
            values += np.float32(path[-1] == "scale")
        flat[path] = jnp.asarray(values)
    return flax.traverse_util.unflatten_dict(flat), sum(leaf.size for leaf in flat.values())


@pytest.mark.slow
def test_full_size_unet_step() -> None:
    config = configs.parse_config(UNetConfig, CONFIGS["sd1"]["unet"], "unet")
    params, count = random_params(config)
    assert count == COUNTS["sd1"]["unet"]
    generator = np.random.default_rng(0)
    latents = jnp.asarray(generator.standard_normal((1, 64, 64, 4)), jnp.float32)
    context = jnp.asarray(generator.standard_normal((1, 77, 768)), jnp.float32)
    start = time.perf_counter()
    step = jax.jit(UNet(config).apply).lower({"params": params}, latents, jnp.ones((1,)), context).compile()
    compiled = time.perf_counter()
    out = np.asarray(step({"params": params}, latents, jnp.ones((1,)), context))
    done = time.perf_counter()
    assert out.shape == (1, 64, 64, 4)
    assert np.isfinite(out).all() and 0.01 < out.std() < 100
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    report = f"compiled in {compiled - start:.1f} s, one step in {done - compiled:.1f} s, peak memory {peak:.2f} GB\n"
    sys.stdout.write(report)
