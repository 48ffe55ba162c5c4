"""Checkpoints of a training state on disk, complete or absent, each with the hash of its content.

Orbax does the writing: a checkpoint appears under its step number only when it is whole. On top of that every
checkpoint stores the SHA-256 of its arrays; one that does not reproduce its hash is moved aside and the one before it
is used.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ine_jax.errors import CorruptRunError, InputError

logger = logging.getLogger(__name__)

HostState = dict[str, np.ndarray]


def to_host(state: Any) -> HostState:
    """Own host copies of all leaves, keyed by their path in the tree (so optimizer states of any library fit).

    Copies, never views: the next step may donate the device buffers while the file is still being written.
    """
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="."): _to_numpy(leaf) for path, leaf in leaves}
    if len(named) != len(leaves):
        raise ValueError("two leaves of the state have the same path")
    return named


def from_host(host: Mapping[str, np.ndarray], like: Any) -> Any:
    """Inverse of `to_host`: the tree of `like` with other values, each leaf on the devices of the leaf it replaces."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    restored = [
        _from_numpy(host[jax.tree_util.keystr(path, simple=True, separator=".")], leaf) for path, leaf in leaves
    ]
    return jax.tree.unflatten(structure, restored)


def content_hash(host: Mapping[str, np.ndarray]) -> str:
    """SHA-256 (hex) over the path, dtype, shape and bytes of every leaf, in the order of the paths."""
    digest = hashlib.sha256()
    for name in sorted(host):
        leaf = np.ascontiguousarray(host[name])
        digest.update(f"{name}|{leaf.dtype}|{host[name].shape}|".encode())
        digest.update(leaf.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def non_finite(host: Mapping[str, np.ndarray]) -> str | None:
    """Path of the first leaf that holds a NaN or an infinity, or None."""
    for name, leaf in host.items():
        if jax.numpy.issubdtype(leaf.dtype, jax.numpy.inexact) and not np.isfinite(leaf.astype(np.float32)).all():
            return name
    return None


class Checkpoints:
    """The newest `keep` checkpoints of a run in `directory`; as a context manager it waits for the last write."""

    def __init__(self, directory: Path, keep: int = 3) -> None:
        self._directory = Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True, create=True)
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.close()

    def steps(self) -> list[int]:
        """Step numbers of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, host: HostState, extra: Mapping[str, Any]) -> None:
        """Start writing `host` and the JSON values `extra` under `step`; returns before the disk has finished."""
        if step in self._manager.all_steps():
            return
        meta = {"sha256": content_hash(host), "layout": _layout(host), "extra": dict(extra)}
        self._manager.save(
            step, args=ocp.args.Composite(state=ocp.args.StandardSave(host), meta=ocp.args.JsonSave(meta))
        )

    def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """(step, state, extra) of the newest checkpoint that reproduces its hash, or None where there is none yet.

        A damaged checkpoint is moved to `damaged/` with one line of warning. Raises InputError where the checkpoint
        holds other arrays than `like`, CorruptRunError where checkpoints exist and none can be used.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
                layout, digest, extra = meta["layout"], meta["sha256"], meta["extra"]
            except Exception as error:  # whatever the file's damage makes the reader raise
                self._move_aside(step, f"{type(error).__name__}: unreadable metadata")
                continue
            template = to_host(like)
            if layout != _layout(template):
                raise InputError(*_layout_difference(layout, _layout(template), self._directory))
            host = self._read_state(step, template, digest)
            if host is not None:
                return step, from_host(host, like), extra
        if steps:
            raise CorruptRunError(
                f"none of the checkpoints {steps} in {self._directory} reproduces its hash",
                "at least one intact checkpoint",
                "start again in a new directory",
            )
        return None

    def _read_state(self, step: int, template: HostState, digest: str) -> HostState | None:
        try:
            args = ocp.args.Composite(state=ocp.args.StandardRestore(template))
            host = {name: np.asarray(leaf) for name, leaf in self._manager.restore(step, args=args)["state"].items()}
        except Exception as error:  # whatever the file's damage makes the reader raise
            self._move_aside(step, f"{type(error).__name__} on reading")
            return None
        if content_hash(host) == digest:
            return host
        self._move_aside(step, "its content does not match its hash")
        return None

    def _move_aside(self, step: int, reason: str) -> None:
        logger.warning("checkpoint %d of %s is damaged (%s); using the one before it", step, self._directory, reason)
        if jax.process_index() == 0:
            # Beside the checkpoint folder, never in it: orbax reads every entry there as a step.
            target = self._directory.with_name("damaged") / str(step)
            target.parent.mkdir(exist_ok=True)
            while target.exists():
                target = target.with_name(target.name + "_")
            (self._directory / str(step)).rename(target)
        self._manager.reload()


def _to_numpy(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.array(leaf)


def _from_numpy(value: np.ndarray, like: Any) -> Any:
    if not isinstance(like, jax.Array):
        return value if isinstance(like, np.ndarray) else type(like)(value.item())
    if jax.dtypes.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.device_put(
            jax.random.wrap_key_data(jax.numpy.asarray(value), impl=jax.random.key_impl(like)), like.sharding
        )
    return jax.device_put(value, like.sharding)


def _layout(host: Mapping[str, np.ndarray]) -> dict[str, str]:
    return {name: f"{leaf.dtype}{json.dumps(leaf.shape)}" for name, leaf in sorted(host.items())}


def _layout_difference(stored: Mapping[str, str], given: Mapping[str, str], directory: Path) -> tuple[str, str, str]:
    names = sorted(name for name in {*stored, *given} if stored.get(name) != given.get(name))
    shown = ", ".join(
        f"{name}: {stored.get(name, 'absent')} stored, {given.get(name, 'absent')} now" for name in names[:3]
    )
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"the checkpoints in {directory} hold other arrays ({shown}{more})",
        "the arrays of this run",
        "use a new directory",
    )
