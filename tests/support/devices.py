"""Child processes that have several virtual devices."""

import json
import os
import subprocess
import sys
from typing import Any

from tests.support.paths import ROOT


def environment(devices: int) -> dict[str, str]:
    """This process's, with its XLA flags, so that a child's numbers may be compared bit for bit."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}".strip()
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def printed(source: str, devices: int, *arguments: str) -> dict[str, Any]:
    """Run a Python program on several devices; what its last line says, as JSON."""
    command = [sys.executable, "-c", source, *arguments]
    done = subprocess.run(command, env=environment(devices), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
