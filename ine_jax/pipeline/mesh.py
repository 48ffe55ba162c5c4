"""The device mesh: one axis, over which a batch is spread; parameters lie on every device."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def device_mesh(devices: Sequence[jax.Device]) -> Mesh:
    """Return the mesh of these devices."""
    return Mesh(np.asarray(devices), (AXIS,))


def platform_of(mesh: Mesh) -> str:
    """Return the platform of its devices: "cpu", "gpu" or "tpu"."""
    return str(mesh.devices.flat[0].platform)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays with a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def spread(mesh: Mesh, rows: int = 0) -> NamedSharding:
    """Return the sharding of arrays whose first axis lies over all devices.

    Where `rows` is not a multiple of the device count, every device holds and computes all of them.
    """
    return NamedSharding(mesh, PartitionSpec(AXIS)) if rows % mesh.size == 0 else replicated(mesh)
