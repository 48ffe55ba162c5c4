"""Which part of the work is this process's: i of N, as the user says or as the launcher's environment does.

Nothing is negotiated between the processes: each does its own blocks, and a dead one hangs nobody.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from ine_jax.errors import InputError

ALLOWED = "i/N with 0 <= i < N"
MOST = 10**6


def parse(text: str, origin: str = "--shard") -> tuple[int, int]:
    """Read `i/N`, part i (from 0) of N. Raises `InputError`, naming `origin`, for anything else."""
    part, _, whole = text.partition("/")
    if part.isascii() and whole.isascii() and part.isdigit() and whole.isdigit() and int(part) < int(whole) <= MOST:
        return int(part), int(whole)
    raise InputError(f"{origin} {text}", ALLOWED, "for the second of four parts write --shard 1/4")


def chosen(text: str, environment: Mapping[str, str]) -> tuple[tuple[int, int], str]:
    """Return part and count, and where they come from: `text` (the flag) where it is given, else the first of these.

    JAX's process index and count where `jax.distributed` is in use; `SLURM_PROCID` of `SLURM_NTASKS` inside a
    step of srun (a batch script alone has both, but runs once; neither does an array of jobs count, which may stand for
    several evaluations); `JOB_COMPLETION_INDEX` of `JOB_COMPLETIONS`, the index of a Kubernetes Job or JobSet, of
    which Kubernetes sets the first and the manifest must set the second. Nothing of it: all, 0/1.

    Raises `InputError` for a text that is no shard, and for an index without its count.
    """
    if text:
        return parse(text), "--shard"
    distributed = _jax()
    if distributed is not None:
        return distributed, "jax.distributed"
    if "SLURM_STEP_NODELIST" in environment and "SLURM_PROCID" in environment and "SLURM_NTASKS" in environment:
        return parse(
            f"{environment['SLURM_PROCID']}/{environment['SLURM_NTASKS']}", "SLURM_PROCID/SLURM_NTASKS"
        ), "Slurm"
    if index := environment.get("JOB_COMPLETION_INDEX"):
        if "JOB_COMPLETIONS" not in environment:
            given = f"JOB_COMPLETION_INDEX {index} without JOB_COMPLETIONS"
            raise InputError(given, "both, or --shard", "set JOB_COMPLETIONS to the job's completions in its manifest")
        names = "JOB_COMPLETION_INDEX/JOB_COMPLETIONS"
        return parse(f"{index}/{environment['JOB_COMPLETIONS']}", names), "Kubernetes"
    return (0, 1), ""


def _jax() -> tuple[int, int] | None:
    """Process index and count of `jax.distributed`; a program that uses it has imported JAX."""
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized():
        return None
    return int(jax.process_index()), int(jax.process_count())


def without(words: Sequence[str]) -> list[str]:
    """A command line without its shard: the parts of one evaluation record one command."""
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--shard":
            next(rest, None)
        elif not word.startswith("--shard="):
            kept.append(word)
    return kept
