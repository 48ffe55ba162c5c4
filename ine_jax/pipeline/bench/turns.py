"""Turns of several implementations in one process, and the rate of a large matrix product among them.

A shared machine changes its speed from minute to minute. So the implementations take turns, in an order that is
reversed from turn to turn, and an implementation is compared with this package turn by turn. A large matrix product in
the same dtype on the same devices takes its turn too: its FLOP/s are what the devices can reach, and the share of it
can be compared between machines.

The FLOPs are those of the model, the same for every implementation: XLA's cost analysis of this package's program, in
the form with plain attention, before it is compiled. The analysis cannot see into attention kernels and counts the body
of a loop once, so it is applied to one network call.
"""

import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from ine_jax.config import BenchConfig
from ine_jax.config.commands import Baseline
from ine_jax.errors import InputError
from ine_jax.models.vae import Vae
from ine_jax.pipeline.bench.records import Setting
from ine_jax.pipeline.mesh import platform_of
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.pipeline.programs import native_unet
from ine_jax.storage.provenance import versions
from ine_jax.types import HostArray

Turn: TypeAlias = Callable[[], object]
OURS, MATMUL = "ine_jax", "matmul"
PLAIN = "none"  # no platform: attention whose products XLA can count
LEAST_TURNS = 3
# Platform -> side of the square matrices, and products in one turn: some tenths of a second on a CPU, and on an
# accelerator enough to hide the start of the program.
PRODUCTS = {"cpu": (2048, 1)}
ACCELERATOR = (8192, 20)


class Timing(TypedDict):
    """One implementation.

    `per_second` is the median of the turns; `speed_of_ine_jax` is the median of the ratios of a turn's seconds to those
    of this package in the same turn, above 1 where this package is faster; `share_of_matmul` is paired likewise;
    `processor_seconds` are those of all threads of the process in one turn; `difference` is the largest one between its
    result and this package's.
    """

    implementation: str
    per_second: float
    lowest: float
    highest: float
    speed_of_ine_jax: float
    speed_lowest: float
    speed_highest: float
    processor_seconds: float
    flops_per_second: float
    share_of_matmul: float
    difference: float | None
    compiles: int | None


class Matmul(TypedDict):
    """FLOP/s of the large matrix product on all devices: median, lowest and highest turn."""

    side: int
    flops_per_second: float
    lowest: float
    highest: float


class Compared(Setting):
    """The result of several implementations; `missing` gives the reason for each that did not run."""

    unit: str
    amount: int
    flops_per_unit: float
    matmul: Matmul
    rows: list[Timing]
    missing: dict[str, str]


@dataclass(frozen=True)
class Contender:
    """An implementation, ready to run.

    Attributes:
        run: one turn, until its result is there.
        result: what the last turn made, to be compared with this package's; None where nothing is.
        compiles: programs compiled since it was made; None where this is not known.
    """

    run: Turn
    result: Callable[[], HostArray | None]
    compiles: Callable[[], int | None] = lambda: None


Makers: TypeAlias = Mapping[Baseline, Callable[[], Contender]]


@dataclass(frozen=True)
class Times:
    """Seconds, and processor seconds of this process, of every turn, by name."""

    seconds: Mapping[str, list[float]]
    processor: Mapping[str, list[float]]


def take_turns(runs: Mapping[str, Turn], repeats: int) -> Times:
    """Time each run in every turn, at least three turns."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    processor: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(max(LEAST_TURNS, repeats)):
        for name in list(runs)[:: -1 if turn % 2 else 1]:
            begun, worked = time.perf_counter(), time.process_time()
            runs[name]()
            seconds[name].append(time.perf_counter() - begun)
            processor[name].append(time.process_time() - worked)
    return Times(seconds, processor)


def compare(
    pipe: Pipeline,
    config: BenchConfig,
    ours: Contender,
    others: Makers,
    unit: str,
    amount: int,
    cost: float,
) -> Compared:
    """Time this package and the others in turns.

    Args:
        ours: this package.
        others: makers of the other implementations, of which the config chooses; one that cannot be made or run is
            reported as missing.
        unit: what is counted, such as "images".
        amount: how many of them a turn makes.
        cost: FLOPs of one of them.
    """
    ours.run()
    contenders: dict[str, Contender] = {OURS: ours}
    missing: dict[str, str] = {}
    expected = ours.result()
    for name in config.baselines:
        try:
            other = others[name]()
            other.run()
        except (ImportError, InputError, RuntimeError) as error:  # RuntimeError: out of memory, no compiler
            missing[name] = (str(error).strip() or type(error).__name__).splitlines()[0]
            continue
        contenders[name] = other
    differences = {name: _apart(each.result(), expected) for name, each in contenders.items()}
    product, work = matrix_product(pipe)
    product()
    times = take_turns({name: each.run for name, each in contenders.items()} | {MATMUL: product}, config.repeats)
    matmul = rate_of(work, times.seconds[MATMUL], pipe)
    rows = [
        _timing(name, times, amount, cost, work * pipe.programs.mesh.size, differences[name], contender.compiles())
        for name, contender in contenders.items()
    ]
    return {
        **setting(pipe, config),
        "unit": unit,
        "amount": amount,
        "flops_per_unit": cost,
        "matmul": matmul,
        "rows": rows,
        "missing": missing,
    }


def _apart(found: HostArray | None, expected: HostArray | None) -> float | None:
    if found is None or expected is None:
        return None
    return float(np.abs(found.astype(np.float64) - expected).max())


def _timing(
    name: str, times: Times, amount: int, cost: float, product: float, difference: float | None, compiles: int | None
) -> Timing:
    seconds = times.seconds[name]
    ratios = [theirs / own for theirs, own in zip(seconds, times.seconds[OURS], strict=True)]
    rates = [product / took for took in times.seconds[MATMUL]]
    shares = [amount * cost / took / reached for took, reached in zip(seconds, rates, strict=True)]
    rate = amount / statistics.median(seconds)
    return {
        "implementation": name,
        "per_second": rate,
        "lowest": amount / max(seconds),
        "highest": amount / min(seconds),
        "speed_of_ine_jax": statistics.median(ratios),
        "speed_lowest": min(ratios),
        "speed_highest": max(ratios),
        "processor_seconds": statistics.median(times.processor[name]),
        "flops_per_second": rate * cost,
        "share_of_matmul": statistics.median(shares),
        "difference": difference,
        "compiles": compiles,
    }


def setting(pipe: Pipeline, config: BenchConfig) -> Setting:
    """Return the setting of a benchmark."""
    unet = pipe.parts.unet_config
    return {
        "schema": 2,
        "what": "",
        "model": pipe.name,
        "batch": pipe.rows(),
        "steps": config.sampler.steps,
        "latents": [unet.sample_size, unet.sample_size, unet.in_channels],
        "repeats": max(LEAST_TURNS, config.repeats),
        "dtype": pipe.dtype.name,
        "device": f"{pipe.programs.mesh.devices.flat[0].device_kind} x {pipe.programs.mesh.size}",
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "versions": versions() | _baseline_versions(),
    }


def _baseline_versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "diffusers") if importlib.util.find_spec(name)}


def matrix_product(pipe: Pipeline) -> tuple[Turn, float]:
    """Return a turn of large matrix products in the pipeline's dtype on its first device, and its FLOPs."""
    side, count = PRODUCTS.get(platform_of(pipe.programs.mesh), ACCELERATOR)
    device = pipe.programs.mesh.devices.flat[0]

    @jax.jit
    def product(left: jax.Array, right: jax.Array) -> jax.Array:
        last: jax.Array = jax.lax.fori_loop(0, count, lambda _, x: x @ right, left)
        return last

    keys = jax.random.split(jax.random.key(0))
    # scaled so that the numbers keep their size: their values decide how much power a chip needs
    scaled = [jax.random.normal(key, (side, side)) / factor for key, factor in zip(keys, (1.0, side**0.5), strict=True)]
    left, right = (jax.device_put(x.astype(pipe.dtype), device) for x in scaled)
    return lambda: jax.block_until_ready(product(left, right)), 2.0 * side**3 * count


def rate_of(work: float, seconds: Sequence[float], pipe: Pipeline) -> Matmul:
    """Return the rate of all devices of a pipeline, of which one did this work in every turn."""
    side, _ = PRODUCTS.get(platform_of(pipe.programs.mesh), ACCELERATOR)
    total = work * pipe.programs.mesh.size
    return {
        "side": side,
        "flops_per_second": total / statistics.median(seconds),
        "lowest": total / max(seconds),
        "highest": total / min(seconds),
    }


def flops(function: Callable[..., object], *arguments: Any) -> float:
    """Return XLA's count of the FLOPs of a function of arrays or their shapes; nothing is compiled."""
    counted: Any = jax.jit(function).lower(*arguments).cost_analysis()
    return float(counted["flops"])


def network_flops(pipe: Pipeline) -> float:
    """Return the FLOPs of one call of the UNet with one row."""
    unet, text = pipe.parts.unet_config, pipe.parts.text_config
    latents = jax.ShapeDtypeStruct((1, unet.sample_size, unet.sample_size, unet.in_channels), jnp.float32)
    context = jax.ShapeDtypeStruct((1, text.max_position_embeddings, text.hidden_size), jnp.float32)
    time = jax.ShapeDtypeStruct((1,), jnp.float32)
    return flops(native_unet(unet, pipe.dtype, PLAIN), pipe.parts.unet_params, latents, time, context)


def decoder_flops(pipe: Pipeline) -> float:
    """Return the FLOPs of decoding one image."""
    unet = pipe.parts.unet_config
    latents = jax.ShapeDtypeStruct((1, unet.sample_size, unet.sample_size, unet.in_channels), jnp.float32)
    decoder = Vae(pipe.parts.vae_config, pipe.dtype, PLAIN)
    return flops(lambda p, x: decoder.apply({"params": p}, x, method="decode"), pipe.parts.vae_params, latents)
