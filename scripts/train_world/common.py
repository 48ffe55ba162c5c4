"""What the training scripts share: optimiser, pixel ranges, flat parameter files."""

from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy


def adam(peak: float, steps: int, warmup: int = 100, final: float = 0.02) -> optax.GradientTransformation:
    """Adam with linear warm-up and cosine decay to ``final`` of the peak; gradients clipped to norm 1."""
    rate = optax.warmup_cosine_decay_schedule(0.0, peak, min(warmup, steps // 10 + 1), steps, final * peak)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.99))


def to_signed(images: Any) -> Any:
    """uint8 [0, 255] → float32 [−1, 1]."""
    return jnp.asarray(images).astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images: Any) -> np.ndarray:
    """float [−1, 1] → uint8 [0, 255], clipped."""
    return np.clip(np.round((np.asarray(images) + 1.0) * 127.5), 0, 255).astype(np.uint8)


def save_params(path: Path, params: Any) -> None:
    """Write a parameter tree as one safetensors file with dotted names."""
    flat = flax.traverse_util.flatten_dict(params, sep=".")
    safetensors.numpy.save_file({k: np.asarray(v, np.float32) for k, v in flat.items()}, path)


def load_params(path: Path) -> Any:
    """Inverse of :func:`save_params`."""
    return flax.traverse_util.unflatten_dict(safetensors.numpy.load_file(path), sep=".")


def shard_batch(*arrays: Any) -> Any:
    """Place arrays with their leading axis split over all devices (parameters follow as replicated)."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    placed = jax.device_put(arrays, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    return placed if len(placed) > 1 else placed[0]


def replicate(tree: Any) -> Any:
    """Place a tree whole on every device."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
