"""What started this process, and as which of how many: read from the environment, for shards and for pods alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ine_jax.errors import InputError

MOST = 10**6
PORT = 8476  # of process 0, where the launcher names only a host
_FIRST_PORT, _PORTS = 61440, 4096  # for jobs of Slurm, by their number


@dataclass(frozen=True)
class Launched:
    """Process `index` of `count`, started by `origin`; process 0 can be reached at `coordinator` (host:port) or ""."""

    index: int
    count: int
    origin: str
    coordinator: str = ""


def detect(environment: Mapping[str, str]) -> Launched | None:
    """Return the first of these that is found, or None.

    A step of srun: `SLURM_PROCID` of `SLURM_NTASKS` (a batch script alone has both, but runs once; neither does an
    array of jobs count, which may stand for several runs). A Cloud TPU slice, or several: `TPU_WORKER_ID` in
    `TPU_WORKER_HOSTNAMES`, and `MEGASCALE_*`. A Kubernetes Job or JobSet: `JOB_COMPLETION_INDEX` of `JOB_COMPLETIONS`,
    of which Kubernetes sets the first and the manifest must set the second, like `JAX_COORDINATOR_ADDRESS`.

    Raises InputError for numbers that are none, and for an index without its count.
    """
    given = environment.get("JAX_COORDINATOR_ADDRESS", "")
    if all(name in environment for name in ("SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_NTASKS")):
        index, count = _numbers(environment, "SLURM_PROCID", "SLURM_NTASKS")
        return Launched(index, count, "Slurm", _with_port(given) or _slurm_coordinator(environment))
    tpu = _tpu(environment, given)
    if tpu is None and environment.get("JOB_COMPLETION_INDEX"):
        if "JOB_COMPLETIONS" not in environment:
            what = f"JOB_COMPLETION_INDEX {environment['JOB_COMPLETION_INDEX']} without JOB_COMPLETIONS"
            todo = "set JOB_COMPLETIONS to the job's completions in its manifest"
            raise InputError(what, "both, or the flags that replace them", todo)
        index, count = _numbers(environment, "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS")
        return Launched(index, count, "Kubernetes", _with_port(given))
    return tpu


def _tpu(environment: Mapping[str, str], given: str) -> Launched | None:
    hosts = [name for name in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if name]
    if not hosts or not environment.get("TPU_WORKER_ID"):
        return None
    slices = environment.get("MEGASCALE_NUM_SLICES") or "1"
    slice_id = environment.get("MEGASCALE_SLICE_ID") or "0"
    worker = environment["TPU_WORKER_ID"]
    index, _ = parse(f"{worker}/{len(hosts)}", "TPU_WORKER_ID/TPU_WORKER_HOSTNAMES")
    part, parts = parse(f"{slice_id}/{slices}", "MEGASCALE_SLICE_ID/MEGASCALE_NUM_SLICES")
    first = environment.get("MEGASCALE_COORDINATOR_ADDRESS", hosts[0]).split(":")[0]
    return Launched(part * len(hosts) + index, parts * len(hosts), "Cloud TPU", _with_port(given or first))


def parse(text: str, origin: str) -> tuple[int, int]:
    """Read `i/N`, part i (from 0) of N. Raises `InputError`, naming `origin`, for anything else."""
    part, _, whole = text.partition("/")
    if part.isascii() and whole.isascii() and part.isdigit() and whole.isdigit() and int(part) < int(whole) <= MOST:
        return int(part), int(whole)
    raise InputError(f"{origin} {text}", "i/N with 0 <= i < N", "for the second of four parts write 1/4")


def _numbers(environment: Mapping[str, str], index: str, count: str) -> tuple[int, int]:
    return parse(f"{environment[index]}/{environment[count]}", f"{index}/{count}")


def _with_port(host: str) -> str:
    return host if not host or host.rpartition(":")[2].isdigit() else f"{host}:{PORT}"


def _slurm_coordinator(environment: Mapping[str, str]) -> str:
    """The first node of a list such as "node[001-004,9],other", with a port that belongs to the job."""
    nodes = environment["SLURM_STEP_NODELIST"]
    prefix, bracket, rest = nodes.partition("[")
    first = nodes.split(",")[0]
    if bracket and "," not in prefix:
        first = prefix + rest.split("]")[0].split(",")[0].split("-")[0]
    job = environment.get("SLURM_JOB_ID", "0")
    step = environment.get("SLURM_STEP_ID", "0")
    number = int(job) * 7 + int(step) if job.isdigit() and step.isdigit() else 0
    return f"{first}:{_FIRST_PORT + number % _PORTS}"
