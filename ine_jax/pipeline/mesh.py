"""The device mesh: one axis, over which a batch is spread; parameters lie on every device.

A pipeline generates on the devices of its own process. Training uses those of all processes of a run (`across`).
"""

from collections.abc import Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ine_jax.types import AnyArray

AXIS = "data"
Tree = TypeVar("Tree")


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


def across(mesh: Mesh) -> Mesh:
    """Return the mesh of all processes' devices, process by process; in a run of one process it is `mesh` itself."""
    return mesh if jax.process_count() == 1 else device_mesh(jax.devices())


def everywhere(tree: Tree, mesh: Mesh) -> Tree:
    """Place equal arrays of all processes on all devices of `mesh`: what a process has on its own is not copied."""
    sharding = replicated(mesh)

    def one(leaf: AnyArray) -> jax.Array:
        if not isinstance(leaf, jax.Array):
            value = np.asarray(leaf)
            return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
        own = {shard.device: shard.data for shard in leaf.addressable_shards}
        pieces = [own[device] for device in sharding.addressable_devices if device in own]
        if leaf.is_fully_replicated and len(pieces) == len(sharding.addressable_devices):
            return jax.make_array_from_single_device_arrays(leaf.shape, sharding, pieces)
        return one(np.asarray(leaf))

    placed: Tree = jax.tree.map(one, tree)
    return placed


def first_decides(tree: Tree) -> Tree:
    """Return process 0's values of a tree of arrays: hosts of different kinds may round differently."""
    if jax.process_count() == 1:
        return tree

    def one(leaf: AnyArray) -> np.ndarray:
        value = np.asarray(leaf)
        data = np.frombuffer(value.tobytes(), np.uint8)  # as bytes: JAX would round a float64
        sent = np.asarray(multihost_utils.broadcast_one_to_all(data), np.uint8)
        return sent.view(value.dtype).reshape(value.shape)

    same: Tree = jax.tree.map(one, tree)
    return same
