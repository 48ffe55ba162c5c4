"""How the processes of a run find each other before JAX connects them.

JAX's own start ends every process natively (signal 6, a C++ log) where one of them does not come. So the processes
first meet here, over plain TCP on the coordinator's port: process 0 listens until all have come, answers with the names
of their hosts, and leaves the port to JAX. Who does not come is named on all hosts.
"""

import json
import socket
import time
from dataclasses import dataclass

from ine_jax.errors import InputError, Interrupted

RETRY = 0.2  # seconds
LINE = 1 << 16  # bytes


@dataclass(frozen=True)
class Place:
    """Which process of how many, and where process 0 is to be found (host:port)."""

    index: int
    count: int
    coordinator: str


def meet(place: Place, seconds: float) -> list[str]:
    """Return the host names of all processes in order, once all of them have come.

    Raises:
        InputError: two processes have the same number, or another idea of how many there are.
        Interrupted: some have not come within `seconds`; the error names them.
    """
    deadline = time.monotonic() + seconds
    return _listen(place, deadline, seconds) if place.index == 0 else _call(place, deadline, seconds)


def _listen(place: Place, deadline: float, seconds: float) -> list[str]:
    hosts, guests = {0: socket.gethostname()}, list[socket.socket]()
    with _server(place) as server:
        try:
            while len(hosts) < place.count:
                server.settimeout(max(0.01, deadline - time.monotonic()))
                try:
                    guest, _ = server.accept()
                    guests.append(guest)
                    guest.settimeout(5.0)
                    word = json.loads(_line(guest))
                    index, host, count = int(word["process"]), str(word["host"]), int(word["processes"])
                except TimeoutError as error:
                    if time.monotonic() < deadline:
                        continue
                    raise _absent(sorted(set(range(place.count)) - hosts.keys()), place, seconds) from error
                except (OSError, ValueError, KeyError, TypeError):
                    continue  # not one of this run
                if count != place.count or index in hosts or not 0 < index < count:
                    given = f"process {index} of {count} on {host} came to a run of {place.count} processes"
                    given += f", where {hosts[index]} is process {index}" if index in hosts else ""
                    raise InputError(given, "each number from 0 once, one count", "correct the launcher or --pod.*")
                hosts[index] = host
        except (InputError, Interrupted) as error:
            _tell(guests, {"error": [error.exit_code, error.given, error.allowed, error.todo]})
            raise
        found = [hosts[i] for i in range(place.count)]
        _tell(guests, {"hosts": found})
    return found


def _server(place: Place) -> socket.socket:
    port = port_of(place.coordinator)
    try:
        return socket.create_server(("", port), backlog=max(place.count, 16), reuse_port=False)
    except OSError as error:
        given = f"process 0 cannot listen on port {port}: {error.strerror}"
        raise InputError(given, "a free port", "choose another one (--pod.coordinator)") from error


def _call(place: Place, deadline: float, seconds: float) -> list[str]:
    host, port = place.coordinator.rsplit(":", 1)[0], port_of(place.coordinator)
    word = {"process": place.index, "host": socket.gethostname(), "processes": place.count}
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host.strip("[]"), port), timeout=5.0) as line:
                line.sendall((json.dumps(word) + "\n").encode())
                line.settimeout(max(0.01, deadline - time.monotonic()) + 5.0)  # process 0 gives up first
                answer = json.loads(_line(line))
        except (OSError, ValueError):
            time.sleep(RETRY)
            continue
        if "error" in answer:
            code, *text = answer["error"]
            raise (InputError if code == InputError.exit_code else Interrupted)(*text)
        return [str(name) for name in answer["hosts"]]
    raise _absent([0], place, seconds)


def _line(line: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        more = line.recv(4096)
        if not more or len(data) > LINE:
            raise ConnectionError("the line ended early")
        data += more
    return data


def _tell(guests: list[socket.socket], answer: dict[str, object]) -> None:
    for guest in guests:
        with guest:
            try:
                guest.sendall((json.dumps(answer) + "\n").encode())
            except OSError:
                continue  # it is watched from now on, or has gone and is named later


def port_of(coordinator: str) -> int:
    """The port of host:port; InputError where there is none."""
    host, _, port = coordinator.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise InputError(f"coordinator {coordinator!r}", "host:port of process 0", "correct --pod.coordinator")
    return int(port)


def _absent(missing: list[int], place: Place, seconds: float) -> Interrupted:
    names = ", ".join(map(str, missing))
    one = len(missing) == 1
    given = f"process{'' if one else 'es'} {names} of {place.count} did not come within {seconds:g} s"
    allowed = f"all of them started, and able to reach {place.coordinator}"
    return Interrupted(given, allowed, "run the same command on all hosts")
