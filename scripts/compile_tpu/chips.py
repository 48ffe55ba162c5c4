"""Published limits of TPU chips, and the topologies that are compiled for."""

import math
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from ine_jax.pipeline.mesh import AXIS

GB, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Chip:
    """Peak rates of one JAX device: bfloat16 FLOP/s, bytes/s of HBM, and bytes of HBM.

    From Google Cloud's pages "TPU v5e", "TPU v6e" and "TPU v4". Without fusing its two cores a v4 chip is two devices
    of half its rates.
    """

    flops: float
    bandwidth: float
    memory: float


CHIPS = {
    "v5e": Chip(197 * TERA, 819 * GB, 16 * GB),
    "v6e": Chip(918 * TERA, 1600 * GB, 32 * GB),
    "v4": Chip(275 / 2 * TERA, 1200 / 2 * GB, 32 / 2 * GB),
}


def topology_mesh(topology: str) -> Mesh:
    """Return a mesh over the devices of a topology such as "v5e:2x2", none of which is needed here."""
    sides = [int(side) for side in topology.split(":")[1].split("x")]
    # The library assumes hosts of four chips; a single chip is a host of its own.
    options: dict[str, Any] = {"chips_per_host_bounds": (1, 1, 1)} if math.prod(sides) == 1 else {}
    described = topologies.get_topology_desc(topology_name=topology, platform="tpu", **options)
    return topologies.make_mesh(described, (len(described.devices),), (AXIS,))


def chip_of(topology: str) -> Chip:
    """Return the limits of a topology's devices."""
    return CHIPS[topology.split(":")[0]]


def version() -> str:
    """Return the versions that the results depend on."""
    import libtpu

    return f"jax {jax.__version__}, libtpu {libtpu.__version__}"
