"""The shipped launch files assign every part of the work to one process."""

import os
import subprocess
from pathlib import Path

import yaml

from ine_jax.cli import shards
from ine_jax.cli.evaluate import Evaluate
from tests.support.paths import ROOT

LAUNCH = ROOT / "configs" / "launch"
INE = """#!/bin/bash
echo "$@" >> "$CALLS"
sleep 0.3
exit "$CODE"
"""


def batch(folder: Path, code: int, part: str = "3") -> tuple[int, list[str]]:
    """Exit code of the batch script with an `ine` that only records its arguments, and the calls."""
    for name, text in (("ine", INE), ("scontrol", '#!/bin/bash\necho "scontrol $@" >> "$CALLS"\n')):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    own = {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(folder / "calls"), "CODE": str(code)}
    settings = {**os.environ, **own, "SLURM_ARRAY_TASK_ID": part, "SLURM_JOB_ID": "77"}
    done = subprocess.run(["bash", LAUNCH / "slurm.sbatch", "a.yaml", "--out", "b c"], env=settings, check=False)
    return done.returncode, (folder / "calls").read_text().splitlines()


def test_the_batch_script_does_its_part(tmp_path: Path) -> None:
    assert batch(tmp_path, 0) == (0, ["evaluate a.yaml --out b c --shard 3/8"])


def test_the_batch_script_goes_back_in_line_when_interrupted(tmp_path: Path) -> None:
    code, calls = batch(tmp_path, 75)
    assert (code, calls[-1]) == (75, "scontrol requeue 77")


def test_the_array_has_every_part() -> None:
    text = (LAUNCH / "slurm.sbatch").read_text()
    assert "#SBATCH --array=0-7\n" in text
    assert "\nPARTS=8\n" in text


def test_the_job_set_has_every_part() -> None:
    (job,) = yaml.safe_load((LAUNCH / "jobset.yml").read_text())["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert spec["completions"] == spec["parallelism"]
    found = [shards.chosen("", {**environment, "JOB_COMPLETION_INDEX": str(i)})[0] for i in range(spec["completions"])]
    assert found == [(i, spec["completions"]) for i in range(spec["completions"])]
    assert container["command"][:2] == ["ine", Evaluate.command_name()]
