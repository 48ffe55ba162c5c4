"""The shipped launch files: commands that exist, and every part of the work assigned to one process."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from ine_jax.cli import launcher, parsing, shards
from ine_jax.cli.evaluate import Evaluate
from ine_jax.cli.invert import Invert
from tests.support.paths import ROOT

LAUNCH = ROOT / "configs" / "launch"
INE = """#!/bin/bash
echo "ine $@" >> "$CALLS"
exit "$CODE"
"""
# As Slurm's: what follows its own options is run, and its exit code is passed on.
SRUN = """#!/bin/bash
while [[ "$1" == -* ]]; do echo "srun $1" >> "$CALLS"; shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo "scontrol $@" >> "$CALLS"
"""


def batch(folder: Path, script: str, code: int, **environment: str) -> tuple[int, list[str]]:
    """Exit code of a batch script with an `ine` that only records its arguments, and the calls."""
    for name, text in (("ine", INE), ("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    own = {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(folder / "calls"), "CODE": str(code)}
    settings = {**os.environ, **own, "SLURM_JOB_ID": "77", **environment}
    done = subprocess.run(["bash", LAUNCH / script, "a.yaml", "--out", "b c"], env=settings, check=False)
    return done.returncode, (folder / "calls").read_text().splitlines()


def test_the_array_does_its_part(tmp_path: Path) -> None:
    found = batch(tmp_path, "slurm-evaluate.sbatch", 0, SLURM_ARRAY_TASK_ID="3")
    assert found == (0, ["ine evaluate a.yaml --out b c --shard 3/8"])


@pytest.mark.parametrize("script", ["slurm-evaluate.sbatch", "slurm-invert.sbatch"])
@pytest.mark.parametrize(("code", "again"), [(75, True), (0, False), (2, False)])
def test_only_an_interrupted_job_goes_back_into_the_queue(tmp_path: Path, script: str, code: int, again: bool) -> None:
    left, calls = batch(tmp_path, script, code, SLURM_ARRAY_TASK_ID="0")
    assert left == code
    assert ("scontrol requeue 77" in calls) == again


def test_the_array_has_every_part() -> None:
    text = (LAUNCH / "slurm-evaluate.sbatch").read_text()
    assert "#SBATCH --array=0-7\n" in text
    assert "\nPARTS=8\n" in text


def container(name: str) -> tuple[dict, dict]:
    """The Job of a JobSet, and its only container."""
    (job,) = yaml.safe_load((LAUNCH / name).read_text())["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (found,) = spec["template"]["spec"]["containers"]
    return spec, found


def test_the_job_set_has_every_part() -> None:
    spec, found = container("jobset-evaluate.yml")
    environment = {entry["name"]: entry["value"] for entry in found["env"]}
    assert spec["completions"] == spec["parallelism"]
    parts = [shards.chosen("", {**environment, "JOB_COMPLETION_INDEX": str(i)})[0] for i in range(spec["completions"])]
    assert parts == [(i, spec["completions"]) for i in range(spec["completions"])]


def test_the_hosts_of_a_job_set_find_the_first() -> None:
    spec, found = container("jobset-invert.yml")
    environment = {entry["name"]: entry["value"] for entry in found["env"]}
    places = [launcher.detect({**environment, "JOB_COMPLETION_INDEX": str(i)}) for i in range(spec["completions"])]
    assert [(place.index, place.count) for place in places if place] == [(i, 4) for i in range(4)]
    assert {place.coordinator for place in places if place} == {"ine-invert-hosts-0-0.ine-invert:8476"}


def sky(name: str) -> list[str]:
    """The command of a SkyPilot file, with its own variables."""
    task = yaml.safe_load((LAUNCH / name).read_text())
    printed = 'ine() { printf "%s\\0" "$@"; }\n' + task["run"]
    settings = {**os.environ, **task["envs"]}
    done = subprocess.run(["bash", "-c", printed], env=settings, capture_output=True, text=True, check=True)
    return done.stdout.rstrip("\0").split("\0")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("jobset-evaluate.yml", Evaluate),
        ("jobset-invert.yml", Invert),
        ("skypilot-evaluate.yml", Evaluate),
        ("skypilot-invert.yml", Invert),
    ],
)
def test_the_command_line_is_accepted(name: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = container(name)[1]["command"][1:] if name.startswith("jobset") else sky(name)
    own = str(ROOT / "configs" / "evaluate" / "tiny.yaml")
    command = parsing.parse([own if word == "/shared/evaluate.yaml" else word for word in words])
    assert isinstance(command, kind)
    assert shlex.join(words).count("--out") == 1


def test_the_images_install_extras_that_exist() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = (ROOT / "docker" / "Dockerfile").read_text().splitlines()
    installed = [line.split("[", 1)[1].split("]", 1)[0].split(",") for line in lines if "pip install" in line]
    assert len(installed) == 2
    assert {name for names in installed for name in names} <= set(extras)
