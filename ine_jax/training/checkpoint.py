"""Checkpoints of a training state on disk, complete or absent, each with the hash of its content.

Orbax does the writing: a checkpoint appears under its step number only when it is whole. Beside it lies the SHA-256 of
its arrays; a checkpoint that does not reproduce its hash is moved aside and the one before it is used.

In a run of several processes all of them write, in the background. Process 0 reads, and sends the others what it found:
one of them decides what is damaged, and a run continues on any number of hosts.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypedDict, TypeVar, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from ine_jax.errors import CorruptRunError, InputError, Interrupted
from ine_jax.pipeline.mesh import first_decides
from ine_jax.storage.atomic import DISK
from ine_jax.storage.publishing import pruned
from ine_jax.storage.sealed import has_hash
from ine_jax.training.pod import current
from ine_jax.training.publishing import publish
from ine_jax.training.topology import Topology, here

logger = logging.getLogger(__name__)

ATTEMPTS = 20
Leaf = jax.Array | np.ndarray
State = TypeVar("State")


class Window(TypedDict, total=False):
    """What a checkpoint keeps of the log line that it cuts in two: sums of the metrics, and of how many steps."""

    sums: dict[str, float]
    count: int


class Restored(NamedTuple):
    """A checkpoint as it was read."""

    step: int
    state: PyTree
    extra: Window
    topology: Topology | None = None  # unknown in checkpoints of earlier versions


def named_leaves(state: PyTree[Leaf]) -> dict[str, np.ndarray]:
    """All leaves as host arrays, by their path in the tree ("optimizer.count")."""
    leaves = jax.tree_util.tree_flatten_with_path(jax.device_get(jax.tree.map(_plain, state)))[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}
    if len(named) != len(leaves):
        raise ValueError("two leaves of the state have the same path")
    return named


def _plain(leaf: Leaf) -> Leaf:
    is_key = isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def content_hash(named: Mapping[str, np.ndarray]) -> str:
    """SHA-256 (hex) over the path, dtype, shape and bytes of every leaf, in the order of the paths."""
    digest = hashlib.sha256()
    for name in sorted(named):
        leaf = np.ascontiguousarray(named[name])
        digest.update(f"{name}|{leaf.dtype}|{named[name].shape}|".encode())
        digest.update(leaf.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def non_finite(named: Mapping[str, np.ndarray]) -> str | None:
    """Path of the first leaf that holds a NaN or an infinity, or None."""
    for name, leaf in named.items():
        if jax.numpy.issubdtype(leaf.dtype, jax.numpy.inexact) and not np.isfinite(leaf.astype(np.float32)).all():
            return name
    return None


def abstract(state: State) -> State:
    """The shapes, dtypes and shardings of `state`: what a checkpoint is restored into."""

    def one(leaf: Leaf) -> jax.ShapeDtypeStruct | np.ndarray:
        if not isinstance(leaf, jax.Array):
            return leaf  # restored as a NumPy array
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

    return cast(State, jax.tree.map(one, state))


class Checkpoints:
    """The newest `keep` checkpoints of a run in `directory`.

    `hashes` maps `checkpoints/<step>/...` to the SHA-256 of files that a finished run recorded.
    """

    def __init__(self, directory: Path, hashes: Mapping[str, str] | None = None, keep: int = 3) -> None:
        self._directory = Path(directory).absolute()
        self._hashes, self._keep, self._team = dict(hashes or {}), keep, current()
        self._opened: ocp.CheckpointManager | None = self._open(alone=True) if self._team.index == 0 else None

    def _open(self, alone: bool) -> ocp.CheckpointManager:
        """Orbax's manager, for process 0 alone or for all: each of its calls then waits for all."""
        several = self._team.count > 1
        every = ocp.options.MultiprocessingOptions()
        one = ocp.options.MultiprocessingOptions(active_processes={0}, barrier_sync_key_prefix="reader")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._keep,
            cleanup_tmp_directories=True,
            create=not several or not alone,
            # Alone not in the background: orbax's threads go on writing, and even commit, after one of them has failed.
            enable_async_checkpointing=several and not alone,
            multiprocessing_options=one if several and alone else every,
        )
        with self._reported():
            return ocp.CheckpointManager(self._directory, options=options)

    @property
    def _manager(self) -> ocp.CheckpointManager:
        if self._opened is None:
            raise ValueError("only process 0 reads before restore()")
        return self._opened

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._opened is not None and (kind is None or kind is Interrupted or self._team.count == 1):
            with self._reported():  # what was written in the background fails here
                self._opened.close()

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """Raise what orbax and its native writers make of a full or failing disk as an OSError on the folder.

        The half-written checkpoint is removed, so that it does not keep the disk full.
        """
        try:
            yield
        except Exception as error:
            code = _disk_error(error)
            if code is None:
                raise
            for _ in range(ATTEMPTS):  # native writes that were under way make files meanwhile
                left = list(self._directory.glob("*.orbax-checkpoint-tmp*"))
                for path in left:
                    shutil.rmtree(path, ignore_errors=True)
                if left:
                    time.sleep(0.05)
            raise OSError(code, os.strerror(code), str(self._directory)) from error

    def steps(self) -> list[int]:
        """Step numbers of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: PyTree[Leaf], extra: Window) -> None:
        """Write `state` and the JSON values `extra` under `step`; the checkpoint is complete or absent."""
        if step in self._manager.all_steps():
            return
        named = named_leaves(state)
        meta = {"sha256": content_hash(named), "layout": _layout(named), "extra": extra, "topology": here()}
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        with self._reported():
            self._manager.save(step, args=args)
        if jax.process_index() == 0:
            publish(self._directory, step)

    def restore(self, like: PyTree[Leaf]) -> Restored | None:
        """Return the newest checkpoint that reproduces its hash, as `_restore` does, on all processes."""
        if self._team.count == 1:
            return self._restore(like)
        plain = jax.tree.map(np.asarray, like)
        found = self._restore(plain) if self._team.index == 0 else None
        head = json.loads(
            self._team.first("checkpoint", json.dumps(found and [found.step, found.extra, found.topology]))
        )
        if self._opened is not None:
            self._opened.close()
        self._opened = self._open(alone=False)
        if head is None:
            return None
        state = first_decides(found.state if found else plain)
        return Restored(head[0], jax.tree.map(_placed, state, like), head[1], head[2])

    def _restore(self, like: PyTree[Leaf]) -> Restored | None:
        """Return the newest checkpoint that reproduces its hash, or None where there is none yet.

        Every array comes back with the sharding of the array at its place in `like`.

        A damaged checkpoint is moved to `damaged/` with one line of warning. Raises InputError where the checkpoint
        holds other arrays than `like`, CorruptRunError where checkpoints exist and none can be used.
        """
        steps = self.steps()
        for step in reversed(steps):
            changed = self._changed(step)
            if changed:
                self._move_aside(step, f"{changed} was changed")
                continue
            try:
                meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
                layout, digest, extra = meta["layout"], meta["sha256"], meta["extra"]
                topology = meta.get("topology")
            except Exception as error:  # whatever the file's damage makes the reader raise
                self._move_aside(step, f"{type(error).__name__}: unreadable metadata")
                continue
            wanted = _layout(named_leaves(like))
            if layout != wanted:
                raise _other_arrays(layout, wanted, self._directory)
            state = self._read_state(step, like, digest)
            if state is not None:
                return Restored(step, state, extra, topology)
        if steps:
            given = f"none of the checkpoints {steps} in {self._directory} reproduces its hash"
            raise CorruptRunError(given, "at least one intact checkpoint", "start again in a new directory")
        return None

    def _changed(self, step: int) -> str:
        """The first file of a checkpoint that does not have its recorded hash; empty where all have theirs."""
        for name, digest in self._hashes.items():
            place = Path(name)
            if place.parts[:2] == (self._directory.name, str(step)) and not has_hash(
                self._directory.parent / place, digest
            ):
                return name
        return ""

    def _read_state(self, step: int, like: State, digest: str) -> State | None:
        try:
            args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract(like)))
            state = cast(State, self._manager.restore(step, args=args)["state"])
        except Exception as error:  # whatever the file's damage makes the reader raise
            self._move_aside(step, f"{type(error).__name__} on reading")
            return None
        if content_hash(named_leaves(state)) == digest:
            return state
        self._move_aside(step, "its content does not match its hash")
        return None

    def _move_aside(self, step: int, reason: str) -> None:
        logger.warning("checkpoint %d of %s is damaged (%s); using the one before it", step, self._directory, reason)
        # Beside the checkpoint folder, never in it: orbax reads every entry there as a step.
        target = self._directory.with_name("damaged") / str(step)
        target.parent.mkdir(exist_ok=True)
        while target.exists():
            target = target.with_name(target.name + "_")
        (self._directory / str(step)).rename(target)
        pruned(self._directory)
        self._manager.reload()


def _placed(value: np.ndarray, like: Leaf) -> Leaf:
    """A value that all processes hold, as the kind of array that the state has there."""
    if not isinstance(like, jax.Array):
        return value
    host = np.asarray(value)
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: host[index])


def _disk_error(error: BaseException | None) -> int | None:
    """The number of the disk's error behind an exception, which native writers give in their message only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK:
            return error.errno
        for code in DISK:
            if os.strerror(code) in str(error):
                return code
        error = error.__cause__ or error.__context__
    return None


def _layout(named: Mapping[str, np.ndarray]) -> dict[str, str]:
    return {name: f"{leaf.dtype}{json.dumps(leaf.shape)}" for name, leaf in sorted(named.items())}


def _other_arrays(stored: Mapping[str, str], given: Mapping[str, str], directory: Path) -> InputError:
    names = sorted(name for name in {*stored, *given} if stored.get(name) != given.get(name))
    found = [f"{name}: {stored.get(name, 'absent')} stored, {given.get(name, 'absent')} now" for name in names[:3]]
    shown = ", ".join(found) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    what = f"the checkpoints in {directory} hold other arrays ({shown})"
    return InputError(what, "the arrays of this run", "use a new directory")
