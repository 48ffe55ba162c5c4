"""The edit of skip connections against NumPy's FFT, and what it leaves alone in the UNet."""

from dataclasses import dataclass, field, replace
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.models.checkpoints import names
from ine_jax.models.skips import Mode, SkipEdit, fourier_filter
from ine_jax.models.unet import UNet
from tests.support.devices import printed
from tests.support.model_recipes import UNETS, normal, torch_state
from tests.support.paths import ROOT

MODES: tuple[Mode, ...] = ("low", "high", "all")
BATCH, BRANCHES, TOKENS = 2, 3, 5
CONFIG = replace(
    UNETS["sd1"],
    block_out_channels=(16, 32, 64),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D",) * 3,
    layers_per_block=1,
)
PARAMS = names.from_torch("unet", torch_state(CONFIG), CONFIG)


def filtered(skip: np.ndarray, reference: np.ndarray, scale: Any, mode: str) -> np.ndarray:
    """The filter told with fftshift, NHWC in float64."""
    axes = (1, 2)
    safe, other = (np.fft.fftshift(np.fft.fft2(np.float64(v), axes=axes), axes=axes) for v in (skip, reference))
    rows, columns = skip.shape[1] // 2, skip.shape[2] // 2
    window = np.zeros(safe.shape, bool)
    window[:, max(rows - 1, 0) : rows + 1, max(columns - 1, 0) : columns + 1] = True
    out = safe.copy()
    if mode in ("low", "all"):
        out = np.where(window & ~((other - safe).real > 0), scale, out)
    if mode in ("high", "all"):
        out = np.where(~window & (np.abs(other.real) > np.abs(safe.real)), scale, out)
    return np.fft.ifft2(np.fft.ifftshift(out, axes=axes), axes=axes).real


def edit(mode: Mode = "all", active: Any = True, rows: tuple[int, ...] = (1,), **numbers: Any) -> SkipEdit:
    given = {"backbone": (1.3, 0.7), "skip": (0.9, 0.2)} | numbers
    values: dict[str, Any] = {name: tuple(map(np.float32, pair)) for name, pair in given.items()}
    return SkipEdit(jnp.broadcast_to(jnp.asarray(active), (BATCH,)), **values, mode=mode, rows=rows)


def inputs(rows: int = BRANCHES + 1) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Latents, timesteps and contexts of a batch, folded item by item; latents are the same for all rows of an item."""
    latents = np.repeat(normal("latents", BATCH, 8, 8, 4), rows, axis=0)
    context = normal("context", BATCH, BRANCHES + 1, TOKENS, CONFIG.cross_attention_dim)[:, :rows]
    return tuple(map(jnp.asarray, (latents, np.full(BATCH * rows, 500.0, np.float32), context.reshape(-1, TOKENS, 24))))  # type: ignore[return-value]


@jax.jit
def unet(params: Any, edit: SkipEdit | None, *arrays: jax.Array) -> jax.Array:
    return cast(jax.Array, UNet(CONFIG).apply({"params": params}, *arrays, edit))


def run(edit: SkipEdit | None, *arrays: jax.Array) -> jax.Array:
    return unet(PARAMS, edit, *arrays)


@pytest.mark.parametrize("shape", [(2, 8, 8, 6), (3, 4, 6, 2), (1, 5, 7, 3), (2, 2, 1, 4), (1, 1, 1, 8)], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_the_filter_is_the_fft(mode: Mode, shape: tuple[int, ...]) -> None:
    skip, reference = normal("skip", *shape), normal("reference", *shape)
    for scale in (0.9, np.linspace(-1, 1, shape[0]).reshape(-1, 1, 1, 1)):
        got = fourier_filter(jnp.asarray(skip), jnp.asarray(reference), jnp.asarray(scale, jnp.float32), mode)
        np.testing.assert_allclose(got, filtered(skip, reference, scale, mode), atol=2e-6)
    if shape[1] > 2:
        assert np.abs(np.asarray(got) - skip).max() > 0.1


def test_where_the_reference_is_the_row_itself_high_frequencies_stay_and_low_ones_go() -> None:
    skip = jnp.asarray(normal("skip", 2, 8, 8, 4))
    np.testing.assert_array_equal(fourier_filter(skip, skip, 0.9, "high"), skip)
    low = np.asarray(fourier_filter(skip, skip, 0.5, "low"))
    np.testing.assert_allclose(low.sum((1, 2)), 0.5, atol=1e-5)


@dataclass(frozen=True)
class HostEdit(SkipEdit):
    """The same edit in NumPy, outside of the compiled program, with a note of every call."""

    seen: list[tuple[int, ...]] = field(default_factory=list)

    @classmethod
    def of(cls, edit: SkipEdit) -> "HostEdit":
        return cls(edit.active, edit.backbone, edit.skip, edit.mode, edit.rows)

    def items(self, rows: Any) -> Any:
        return rows.reshape(BATCH, -1, *rows.shape[1:])

    def kept(self, rows: Any) -> Any:
        return self.items(rows)[:, :-1].reshape(-1, *rows.shape[1:])

    def __call__(self, x: Any, skip: Any, widths: tuple[int, ...]) -> Any:
        self.seen.append((*x.shape[:1], *skip.shape[:1], x.shape[-1]))
        shapes = jax.ShapeDtypeStruct(x.shape, x.dtype), jax.ShapeDtypeStruct(self.kept(skip).shape, skip.dtype)
        return jax.pure_callback(self.on_host, shapes, x, skip)

    def on_host(self, x: Any, skip: Any) -> tuple[np.ndarray, np.ndarray]:
        features, skips = (self.items(np.array(rows)) for rows in (x, skip))
        level = {64: 0, 32: 1}.get(x.shape[-1])
        for item in range(BATCH):
            for row in self.rows:
                if level is None or not self.active[item]:
                    continue
                features[item, row, ..., : x.shape[-1] // 2] *= self.backbone[level]
                pair = skips[item, row][None], skips[item, -1][None]
                skips[item, row] = filtered(*pair, self.skip[level], self.mode)[0]
        return features.reshape(x.shape), self.kept(skips.reshape(skip.shape))


@pytest.mark.parametrize("mode", MODES)
def test_the_edit_works_branch_by_branch(mode: Mode) -> None:
    for width, rows, active in ((64, (1,), [True, False]), (32, (0, 2), True), (16, (1,), True)):
        given = edit(mode, active, rows)
        x = jnp.asarray(normal("x", BATCH * BRANCHES, 4, 4, width))
        skip = jnp.asarray(normal("skip", BATCH * (BRANCHES + 1), 4, 4, 10))
        for mine, theirs in zip(given(x, skip, (16, 32, 64)), HostEdit.of(given)(x, skip, ()), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=2e-6)


@pytest.mark.thorough
def test_the_unet_edits_where_features_have_the_two_greatest_widths() -> None:
    given, arrays = edit("all"), inputs()
    on_host: Any = HostEdit.of(given)
    expected = jax.jit(lambda params, *arrays: UNet(CONFIG).apply({"params": params}, *arrays, on_host))(
        PARAMS, *arrays
    )
    np.testing.assert_allclose(run(given, *arrays), expected, atol=1e-5)
    kept, whole = BATCH * BRANCHES, BATCH * (BRANCHES + 1)
    # Two resnets a level, from the coarsest: a level's first meets the width of the one below.
    assert on_host.seen == [(kept, whole, width) for width in (64, 64, 64, 32, 32, 16)]
    assert np.abs(np.asarray(expected) - np.asarray(run(edit(active=False), *arrays))).max() > 1e-2


def test_an_edit_that_is_not_active_is_the_plain_unet_and_the_reference_touches_nothing() -> None:
    arrays, given = inputs(), edit("all", False)
    got = run(given, *arrays)
    np.testing.assert_allclose(got, run(None, *inputs(BRANCHES)), atol=5e-6)
    other = arrays[2].reshape(BATCH, BRANCHES + 1, TOKENS, -1).at[:, -1].multiply(-3).reshape(arrays[2].shape)
    np.testing.assert_array_equal(run(given, *arrays[:2], other), got)


def test_only_the_named_rows_of_active_items_change_and_numbers_compile_nothing() -> None:
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def once(params: Any, edit: SkipEdit, *arrays: jax.Array) -> jax.Array:
        return unet(params, edit, *arrays)

    plain = np.asarray(once(PARAMS, edit(active=False), *inputs()))
    for pair in ((1.3, 0.7), (2.0, 0.1)):
        got = np.asarray(once(PARAMS, edit(active=[True, False], backbone=pair, skip=pair), *inputs()))
        changed = np.abs(got - plain).reshape(BATCH, BRANCHES, -1).max(-1) > 1e-4
        np.testing.assert_array_equal(changed, [[False, True, False], [False] * 3])


def test_the_dtype_is_kept_and_the_filter_is_float32() -> None:
    x, skip = (jnp.asarray(normal(n, BATCH * k, 4, 4, 64), jnp.bfloat16) for n, k in (("x", 3), ("skip", 4)))
    got = edit("all")(x, skip, (64,))
    exact = edit("all")(x.astype(jnp.float32), skip.astype(jnp.float32), (64,))
    for mine, theirs in zip(got, exact, strict=True):
        assert mine.dtype == jnp.bfloat16
        np.testing.assert_array_equal(mine, theirs.astype(jnp.bfloat16))


SHARDED = r"""
import json, re, sys
from dataclasses import replace
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
sys.path.insert(0, sys.argv[1])
from tests.support.model_recipes import UNETS, normal, torch_state
from ine_jax.models.checkpoints import names
from ine_jax.models.skips import SkipEdit
from ine_jax.models.unet import UNet

mesh = Mesh(np.array(jax.devices()), ("data",))
across, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
config = UNETS["shallow"]
params = names.from_torch("unet", torch_state(config), config)
edit = SkipEdit(np.arange(4) != 2, (1.3, 0.7), (0.9, 0.2), mode="all", rows=(1,))
arrays = (normal("x", 12, 8, 8, 4), np.full(12, 500.0, np.float32), normal("c", 12, 5, 24))

def run(params, edit, *arrays):
    return UNet(config).apply({"params": params}, *arrays, edit)

put = lambda tree: jax.tree.map(lambda a: jax.device_put(a, across if np.ndim(a) else everywhere), tree)
given = (jax.device_put(params, everywhere), put(edit), *put(arrays))
compiled = jax.jit(run, out_shardings=across).lower(*given).compile()
text = compiled.as_text()
found = re.findall(r"\b(?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(", text)
delta = np.abs(np.asarray(compiled(*given)) - np.asarray(jax.jit(run)(params, edit, *arrays))).max()
print(json.dumps({"collectives": found, "partitions": "num_partitions=4" in text, "delta": float(delta)}))
"""


@pytest.mark.thorough
def test_a_batch_shared_by_devices_needs_no_communication() -> None:
    found = printed(SHARDED, 4, str(ROOT))
    assert found["collectives"] == []
    assert found["partitions"]
    assert found["delta"] < 1e-5
