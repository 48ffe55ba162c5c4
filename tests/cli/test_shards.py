"""The part of the work that a process takes: from the flag, else from the launcher's environment."""

import os
import subprocess
import sys

import pytest

from ine_jax.cli import shards
from ine_jax.errors import InputError
from tests.support.paths import ROOT

SLURM = {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "1", "SLURM_NTASKS": "4"}
KUBERNETES = {"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETIONS": "3"}


@pytest.mark.parametrize(
    ("text", "environment", "found"),
    [
        ("", {}, ((0, 1), "")),
        ("", SLURM, ((1, 4), "Slurm")),
        ("", KUBERNETES, ((2, 3), "Kubernetes")),
        ("", {**SLURM, **KUBERNETES}, ((1, 4), "Slurm")),
        ("0/2", {**SLURM, **KUBERNETES}, ((0, 2), "--shard")),
        ("", {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, ((0, 1), "")),  # a batch script without srun runs once
        ("", {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}, ((0, 1), "")),
    ],
)
def test_the_flag_wins_and_launchers_follow(text: str, environment: dict, found: tuple) -> None:
    assert shards.chosen(text, environment) == found


@pytest.mark.parametrize("text", ["1", "2/2", "-1/2", "a/b", "1/0", "1/2/3", "²/3", " 0/1", "0/1000001"])
def test_an_invalid_shard_is_rejected(text: str) -> None:
    with pytest.raises(InputError, match="--shard"):
        shards.chosen(text, {})


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"JOB_COMPLETION_INDEX": "0"}, "without JOB_COMPLETIONS"),
        ({"JOB_COMPLETION_INDEX": "3", "JOB_COMPLETIONS": "3"}, "JOB_COMPLETION_INDEX/JOB_COMPLETIONS 3/3"),
        ({**SLURM, "SLURM_PROCID": "x"}, "SLURM_PROCID/SLURM_NTASKS x/4"),
    ],
)
def test_half_an_environment_is_rejected(environment: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        shards.chosen("", environment)


def test_the_recorded_command_has_no_shard() -> None:
    words = ["ine", "evaluate", "--shard", "1/3", "--out", "a", "--shard=2/3", "--sampler.steps", "2"]
    assert shards.without(words) == ["ine", "evaluate", "--out", "a", "--sampler.steps", "2"]


DISTRIBUTED = """
import sys, jax
from ine_jax.cli import shards
jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
print(shards.chosen("", {"SLURM_STEP_NODELIST": "n", "SLURM_PROCID": "0", "SLURM_NTASKS": "9"}))
"""


def test_jax_distributed_is_asked_first(unused_port: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", DISTRIBUTED, str(unused_port)]
    pair = [
        subprocess.Popen([*command, str(i)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    found = [process.communicate(timeout=120) for process in pair]
    for i, (out, err) in enumerate(found):
        assert out.strip() == f"(({i}, 2), 'jax.distributed')", err[-1000:]


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
