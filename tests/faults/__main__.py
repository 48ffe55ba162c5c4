"""`python -m tests.faults`: the sweep over write sites, with the library of faults compiled and loaded."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.faults.shim import compiled
from tests.support.paths import ROOT
from tests.support.programs import compile_fast


def sweep(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run `tests.faults.sweep` with these words in a folder of its own."""
    compile_fast()
    with tempfile.TemporaryDirectory() as place:
        own = {"LD_PRELOAD": str(compiled(Path(place))), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        own |= {"INE_COMPILE_CACHE": "off", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "GIT_DIR": "/nowhere"}
        line = [sys.executable, "-m", "tests.faults.sweep", str(Path(place).resolve() / "sweep"), *words]
        (Path(place) / "sweep").mkdir()
        return subprocess.run(line, cwd=ROOT, env={**os.environ, **own}, text=True, stdout=subprocess.PIPE)


if __name__ == "__main__":
    done = sweep(*sys.argv[1:])
    sys.stdout.write(done.stdout)
    sys.exit(done.returncode)
