"""The watch and the agreement of processes, over a store in memory: threads stand for processes."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ine_jax import progress
from ine_jax.errors import IneError, InputError, StorageError
from ine_jax.training import pod as pods
from ine_jax.training import watch as watching
from ine_jax.training.pod import AHEAD, Pod, require_same
from ine_jax.training.watch import Watch

HOSTS = ["a", "b", "c"]
# How a thread ends in the fixture `left`.
pytestmark = pytest.mark.filterwarnings(r"ignore:(?s).*SystemExit:pytest.PytestUnhandledThreadExceptionWarning")


class Memory:
    """A key-value store as JAX's."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.lock = threading.Lock()

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        with self.lock:
            if key in self.values and not allow_overwrite:
                raise RuntimeError("ALREADY_EXISTS")
            self.values[key] = value

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        with self.lock:
            return [item for item in self.values.items() if item[0].startswith(key)]


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, IneError]]:
    """What every process that left reported, by the name of its thread; no signal is touched."""
    found: dict[str, IneError] = {}
    made: list[Watch] = []

    def leave(error: IneError) -> None:
        found[threading.current_thread().name] = error
        raise SystemExit  # of this thread; the process would have ended

    def note(watch: Watch) -> None:
        made.append(watch)

    monkeypatch.setattr(progress, "leave", leave)
    monkeypatch.setattr(progress, "set_farewell", lambda farewell: None)
    monkeypatch.setattr(watching, "_take_abort", note)
    monkeypatch.setattr(watching, "FAREWELL", 0.1)
    yield found
    for watch in made:
        watch._end.set()
    for thread in threading.enumerate():  # or one that is about to leave would report to the next test
        if thread.name in ("pod_talk", "pod_check"):
            thread.join()


def wait(left: dict[str, IneError], seconds: float = 20.0) -> IneError:
    until = time.monotonic() + seconds
    while not left and time.monotonic() < until:
        time.sleep(0.02)
    return next(iter(left.values()))


def test_a_heart_that_stops_is_named(left: dict[str, IneError]) -> None:
    store = Memory()
    watches = [Watch(store, i, HOSTS, 1.0) for i in range(3)]
    for each in watches:
        each.start()
    time.sleep(0.5)
    watches[1]._end.set()  # it is gone without a word
    error = wait(left)
    assert "process 1 of 3 (b) has not answered" in str(error) and error.exit_code == 75


def test_a_main_thread_that_stands_still_while_others_wait_is_named(left: dict[str, IneError]) -> None:
    store = Memory()
    watches = [Watch(store, i, HOSTS, 2.0) for i in range(3)]
    for each in watches:
        each.start()
        each.move(patient=False)
    for ahead in (0, 1):
        watches[ahead].move(patient=False)
    error = wait(left)
    assert "process 2 of 3 (c) is stuck" in str(error) and error.exit_code == 75


def test_slow_parts_have_patience(left: dict[str, IneError]) -> None:
    store = Memory()
    watches = [Watch(store, i, HOSTS, 0.5) for i in range(3)]
    for each in watches:
        each.start()
        each.move(patient=True)
    watches[0].move(patient=False)
    time.sleep(1.5)
    assert not left


def test_a_reason_is_everybodys_with_its_code(left: dict[str, IneError]) -> None:
    store = Memory()
    watches = [Watch(store, i, HOSTS, 5.0) for i in range(3)]
    for each in watches:
        each.start()
    watches[2].publish(StorageError("process 2: no space", "", "make room"))
    error = wait(left)
    assert isinstance(error, StorageError) and "no space" in str(error)


def test_all_stop_after_the_same_step(left: dict[str, IneError]) -> None:
    """Nobody gets more than two steps ahead of another, as in the loop; one is asked, and all stop together."""
    store, done, last = Memory(), [0, 0, 0], dict[int, int]()
    team = [Pod(store, i, HOSTS, 20.0) for i in range(3)]
    asked = [threading.Event() for _ in team]

    def work(i: int) -> None:
        for step in range(10_000):
            while step - min(done) > 1:  # the collective of the step before
                time.sleep(0.0005)
            if team[i].stopping(asked[i], step):
                last[i] = step
                return
            time.sleep(0.002 * (i + 1))
            done[i] = step + 1

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    asked[1].set()
    for thread in threads:
        thread.join(30.0)
    assert len(last) == 3 and len(set(last.values())) == 1
    assert all(event.is_set() for event in asked) and last[0] >= AHEAD and not left


def test_other_settings_and_a_directory_of_ones_own_are_found(
    left: dict[str, IneError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pods, "_appears", lambda mark: mark.exists())

    def each(folders: list[Path], settings: list[object]) -> list[str]:
        store, found = Memory(), dict[int, str]()

        def work(i: int) -> None:
            try:
                require_same(Pod(store, i, HOSTS[:2], 20.0), folders[i], settings[i])
                found[i] = ""
            except InputError as error:
                found[i] = str(error)

        threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30.0)
        return [found[i] for i in range(2)]

    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = tmp_path / "one", tmp_path / "two"
    assert each([one, one], [{"seed": 1}, {"seed": 1}]) == ["", ""]
    assert all("process 1 of 2 (b) has other settings" in text for text in each([one, one], [{"a": 1}, {"a": 2}]))
    assert all("process 1 of 2 (b) cannot see the directory" in text for text in each([one, two], [{}, {}]))
    assert not list(one.iterdir())
