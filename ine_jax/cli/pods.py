"""Which process of a pod this is, and the work that all of them do together."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

from ine_jax.cli import launcher
from ine_jax.cli.launcher import Launched
from ine_jax.config import PodConfig
from ine_jax.errors import InputError


def placed(config: PodConfig, environment: Mapping[str, str]) -> Launched | None:
    """This process's place: that of the flags, else of the launcher; None for a process alone.

    Raises InputError where a launcher started several processes and nobody says where process 0 is.
    """
    if config.processes is not None and config.process is not None:
        return Launched(config.process, config.processes, "--pod", config.coordinator) if config.processes > 1 else None
    found = launcher.detect(environment)
    if found is None or found.count == 1:
        return None
    if not found.coordinator:
        given = f"{found.count} processes started by {found.origin}, without the address of process 0"
        raise InputError(
            given, "host:port of process 0", "set JAX_COORDINATOR_ADDRESS, or --pod.coordinator and others"
        )
    return found


def heading(config: PodConfig) -> list[str]:
    """A line about this process's place, where there are several."""
    found = placed(config, os.environ)
    if found is None:
        return []
    return [f"process {found.index} of {found.count} ({found.origin}), process 0 at {found.coordinator}"]


@contextlib.contextmanager
def joined(config: PodConfig) -> Iterator[None]:
    """What happens within is done by all processes of the pod together; alone, nothing changes."""
    found = placed(config, os.environ)
    if found is None:
        yield
        return
    from ine_jax.training import pod
    from ine_jax.training.rendezvous import Place

    with pod.member(pod.join(Place(found.index, found.count, found.coordinator), config.timeout)):
        yield
