"""The environment of a child process that has several virtual devices."""

import os

from tests.support.paths import ROOT


def environment(devices: int) -> dict[str, str]:
    """This process's, with its XLA flags, so that a child's numbers may be compared bit for bit."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}".strip()
    return {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
