"""What launchers set, and which process of which pod it makes of this one."""

import pytest

from ine_jax.cli import launcher, pods
from ine_jax.cli.launcher import Launched
from ine_jax.config import PodConfig
from ine_jax.errors import InputError

SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "12", "SLURM_STEP_ID": "0"}
KUBERNETES = {"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETIONS": "3"}
TPU = {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b"}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({**SLURM, "SLURM_STEP_NODELIST": "node[003-006,9],x"}, Launched(1, 4, "Slurm", "node003:61524")),
        ({**SLURM, "SLURM_STEP_NODELIST": "a,node[1-3]"}, Launched(1, 4, "Slurm", "a:61524")),
        (
            {**SLURM, "SLURM_STEP_NODELIST": "a", "JAX_COORDINATOR_ADDRESS": "h:1"},
            Launched(1, 4, "Slurm", "h:1"),
        ),
        (KUBERNETES, Launched(2, 3, "Kubernetes", "")),
        ({**KUBERNETES, "JAX_COORDINATOR_ADDRESS": "j-0.j"}, Launched(2, 3, "Kubernetes", "j-0.j:8476")),
        (TPU, Launched(1, 2, "Cloud TPU", "a:8476")),
        ({**TPU, "JOB_COMPLETION_INDEX": "1"}, Launched(1, 2, "Cloud TPU", "a:8476")),
        (
            {**TPU, "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1", "MEGASCALE_COORDINATOR_ADDRESS": "s0:80"},
            Launched(3, 4, "Cloud TPU", "s0:8476"),
        ),
    ],
)
def test_launchers_are_detected(environment: dict, found: Launched | None) -> None:
    assert launcher.detect(environment) == found


def test_flags_win_and_one_process_is_alone() -> None:
    flags = PodConfig("h:1", 2, 1)
    assert pods.placed(flags, KUBERNETES) == Launched(1, 2, "--pod", "h:1")
    assert pods.placed(PodConfig("h:1", 1, 0), KUBERNETES) is None
    assert pods.placed(PodConfig(), {"JOB_COMPLETION_INDEX": "0", "JOB_COMPLETIONS": "1"}) is None
    with pytest.raises(InputError, match="without the address of process 0"):
        pods.placed(PodConfig(), KUBERNETES)


@pytest.mark.parametrize("given", [("h:1", None, None), ("", 2, 1), ("h:1", 2, 2), ("h", 2, 1)])
def test_half_a_place_is_rejected(given: tuple) -> None:
    with pytest.raises(InputError):
        PodConfig(*given)
    with pytest.raises(InputError):
        PodConfig(timeout=0.0)
