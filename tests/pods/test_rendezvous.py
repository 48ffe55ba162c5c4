"""Processes that meet before JAX connects them: those that do not come are named, wrong numbers are rejected."""

import threading

import pytest

from ine_jax.errors import IneError, InputError, Interrupted
from ine_jax.training.rendezvous import Place, meet, port_of
from tests.support.pods import free_port


def met(places: list[Place], seconds: float) -> list[list[str] | IneError]:
    found: dict[int, list[str] | IneError] = {}

    def come(number: int, place: Place) -> None:
        try:
            found[number] = meet(place, seconds)
        except IneError as error:
            found[number] = error

    threads = [threading.Thread(target=come, args=item) for item in enumerate(places)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[i] for i in range(len(places))]


def test_all_learn_the_hosts() -> None:
    address = f"127.0.0.1:{free_port()}"
    found = met([Place(i, 3, address) for i in (2, 0, 1)], 20.0)
    assert found[0] == found[1] == found[2] and len(found[0]) == 3  # type: ignore[arg-type]


def test_who_does_not_come_is_named_everywhere() -> None:
    address = f"127.0.0.1:{free_port()}"
    for error in met([Place(i, 4, address) for i in (0, 2)], 0.8):
        assert isinstance(error, Interrupted) and "processes 1, 3 of 4 did not come" in str(error)
    (alone,) = met([Place(1, 2, f"127.0.0.1:{free_port()}")], 0.4)
    assert isinstance(alone, Interrupted) and "process 0 of 2 did not come" in str(alone)


def test_wrong_numbers_are_rejected_everywhere() -> None:
    address = f"127.0.0.1:{free_port()}"
    for error in met([Place(0, 3, address), Place(1, 2, address)], 20.0):
        assert isinstance(error, InputError) and "process 1 of 2" in str(error)
    address = f"127.0.0.1:{free_port()}"
    twice = met([Place(0, 3, address), Place(1, 3, address), Place(1, 3, address)], 2.0)
    assert isinstance(twice[0], InputError) and "is process 1" in str(twice[0])


@pytest.mark.parametrize("text", ["host", "host:", ":1", "host:0", "host:65536", "host:²"])
def test_an_address_has_host_and_port(text: str) -> None:
    with pytest.raises(InputError, match="coordinator"):
        port_of(text)
