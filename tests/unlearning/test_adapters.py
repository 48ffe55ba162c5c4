"""Low-rank adapters: applied as merged, their start, and the two published layouts."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from ine_jax.errors import InputError
from ine_jax.models.checkpoints import names
from ine_jax.models.checkpoints.recognize import recognize_checkpoints
from ine_jax.models.unet import UNetConfig
from ine_jax.pipeline.programs import native_unet
from ine_jax.types import Params
from ine_jax.unlearning.adapters import Adapters, Layout, adapted, fresh, kernels, with_adapters, write_adapters
from tests.support.tiny_pipeline import CELLS, LENGTH, UNET, WIDTH, random_like

CONFIG = UNetConfig.from_dict(UNET)
RNG = np.random.default_rng


@pytest.fixture(scope="module")
def params() -> Params:
    from ine_jax.models.unet import UNet

    inputs = jnp.zeros((1, CELLS, CELLS, 4)), jnp.zeros((1,)), jnp.zeros((1, LENGTH, WIDTH))
    return random_like(jax.eval_shape(UNet(CONFIG).init, jax.random.key(0), *inputs)["params"], 0)


def trained(params: Params, rank: int = 3) -> Adapters:
    """Adapters of every transformer's layers, dense and convolution, whose second factor is no longer zero."""
    start = fresh(kernels(params, lambda path: "attentions_0" in path), rank, 0, "gaussian")
    return {name: leaf + 0.2 * RNG(1).standard_normal(leaf.shape).astype(np.float32) for name, leaf in start.items()}


def test_applied_and_merged_are_one(params: Params) -> None:
    rng, adapters = RNG(2), trained(params)
    latents, context = rng.standard_normal((2, CELLS, CELLS, 4)), rng.standard_normal((2, LENGTH, WIDTH))
    inputs = jnp.asarray(latents, jnp.float32), jnp.asarray([3.0, 900.0]), jnp.asarray(context, jnp.float32)
    unet = native_unet(CONFIG, jnp.float32)
    applied = jax.jit(lambda p, a, *x: adapted(unet, a, 0.7)(p, *x))(params, adapters, *inputs)
    plain = jax.jit(unet)
    merged = plain(with_adapters(params, adapters, 0.7), *inputs)
    assert np.abs(merged - plain(params, *inputs)).max() > 0.05
    np.testing.assert_allclose(applied, merged, rtol=1e-6, atol=1e-6 * float(np.abs(merged).max()))


def test_a_strided_convolution_keeps_its_stride() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Conv(6, (3, 3), strides=2, padding=((1, 1), (0, 1)), name="conv")(x)

    net, x = Net(), jnp.asarray(RNG(0).standard_normal((1, 8, 8, 4)), jnp.float32)
    weights = net.init(jax.random.key(0), x)["params"]
    down, up = (jnp.asarray(RNG(1).standard_normal(s), jnp.float32) for s in ((3, 3, 4, 2), (1, 1, 2, 6)))
    both = {"conv.down": down, "conv.up": up}

    def denoise(p: Params, x: jax.Array) -> jax.Array:
        out: jax.Array = net.apply({"params": p}, x)  # type: ignore[assignment]
        return out

    kernel = np.asarray(weights["conv"]["kernel"], np.float64) + np.einsum("hwir,ro->hwio", down, up[0, 0])
    moved = with_adapters(weights, both)
    np.testing.assert_allclose(moved["conv"]["kernel"], kernel, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(adapted(denoise, both)(weights, x), denoise(moved, x), rtol=1e-5, atol=1e-5)


def test_a_fresh_adapter_changes_nothing_and_is_random_as_published(params: Params) -> None:
    shapes = kernels(params, lambda path: path[-1] in ("to_q", "proj_in"))
    for start, spread in (("gaussian", 1 / 8), ("kaiming", 32**-0.5 / 3**0.5)):
        adapters = fresh(shapes, 8, 0, start)  # type: ignore[arg-type]
        assert all(not np.any(leaf) for name, leaf in adapters.items() if name.endswith(".up"))
        down = np.concatenate([np.ravel(leaf) for name, leaf in adapters.items() if name.endswith(".down")])
        np.testing.assert_allclose(down.std(), spread, rtol=0.1)
        assert len(np.unique(down)) > 0.99 * len(down)
    assert np.abs(down).max() <= 32**-0.5
    with pytest.raises(InputError, match="no layer for the adapters"):
        kernels(params, lambda path: False)


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_the_file_is_read_back(params: Params, layout: Layout, tmp_path: Path) -> None:
    adapters, path = trained(params), tmp_path / "lora.safetensors"
    write_adapters(path, adapters, layout, 1.5, {"method": "mine"})
    (found,) = recognize_checkpoints(path)
    scale = 0.5 if layout == "kohya" else 1.0
    assert found.kind == "LoRA" and found.metadata["method"] == "mine"
    state, new = names.to_torch(params), names.to_torch(with_adapters(params, adapters, scale))
    changed = {key for key in state if not np.array_equal(state[key], new[key])}
    assert len(found.factors) == len(changed) == len(adapters) // 2
    for key in changed:
        factors = found.factors["unet", key.removesuffix(".weight").replace(".", "_")]
        np.testing.assert_allclose(state[key] + factors.product(state[key].shape), new[key], rtol=0, atol=2e-6)
    shapes = {key: value.shape for key, value in safetensors.numpy.load_file(path).items() if "proj_in" in key}
    assert {shape for key, shape in shapes.items() if key.endswith("up.weight")} == {(32, 3, 1, 1)}


@pytest.mark.oracle
@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_diffusers_loads_it(params: Params, layout: Layout, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    torch = pytest.importorskip("torch")
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    adapters = trained(params)
    write_adapters(tmp_path / "lora.safetensors", adapters, layout, 1.5, {})
    unet = UNet2DConditionModel.from_config(UNET)
    unet.load_state_dict({key: torch.from_numpy(value) for key, value in names.to_torch(params).items()})
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "scheduler", "safety_checker", "feature_extractor"))
    pipe = StableDiffusionPipeline(unet=unet, requires_safety_checker=False, **parts)
    pipe.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    rng = RNG(2)
    latents, context = rng.standard_normal((2, CELLS, CELLS, 4)), rng.standard_normal((2, LENGTH, WIDTH))
    times, latents, context = np.asarray([3.0, 900.0]), latents.astype(np.float32), context.astype(np.float32)
    moved = with_adapters(params, adapters, 0.5 if layout == "kohya" else 1.0)
    ours = native_unet(CONFIG, jnp.float32)(moved, *map(jnp.asarray, (latents, times.astype(np.float32), context)))
    with torch.no_grad():
        planes, rest = torch.from_numpy(latents.transpose(0, 3, 1, 2)), torch.from_numpy(context)
        theirs = unet(planes, torch.from_numpy(times), rest).sample.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
