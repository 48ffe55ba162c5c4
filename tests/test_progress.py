"""Progress: plain lines about every ten seconds where there is no terminal, a bar where there is, process 0 only."""

import io
import threading

import pytest

from ine_jax.progress import Progress, announce, duration


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drive(stream: io.StringIO, process: int = 0, steps: int = 60, seconds: float = 1.0) -> list[str]:
    clock = Clock()
    with Progress(steps, "in\x1b[31mversion", stream=stream, process=process, clock=clock) as progress:
        for step in range(1, steps + 1):
            clock.now += seconds
            progress.update(step, {"loss": 1 / step})
    return stream.getvalue().splitlines()


def test_plain_lines_every_ten_seconds_and_at_the_end() -> None:
    lines = drive(io.StringIO())
    assert len(lines) == 6
    assert lines[0] == "in [31mversion 10/60  loss 0.1  1 steps/s  ETA 0:50"
    assert lines[-1].startswith("in [31mversion 60/60  loss 0.01667")


def test_the_first_step_is_not_part_of_the_rate() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(100, stream=stream, clock=clock) as progress:
        clock.now = 500.0  # compilation
        progress.update(1)
        clock.now = 510.0
        progress.update(21)
    assert stream.getvalue().splitlines()[-1] == "21/100  2 steps/s  ETA 0:40"


def test_a_continued_run_counts_only_its_own_steps() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(1000, stream=stream, clock=clock) as progress:
        for step in (901, 902, 912):
            clock.now += 10.0
            progress.update(step)
    assert stream.getvalue().splitlines()[-1] == "912/1000  0.55 steps/s  ETA 2:40"


def test_other_processes_are_silent() -> None:
    assert drive(io.StringIO(), process=1) == []
    assert drive(Terminal(), process=1) == []


def test_a_terminal_gets_a_bar() -> None:
    text = "\n".join(drive(Terminal()))
    assert "60/60" in text
    assert "loss" in text
    assert "\x1b[31mversion" not in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3600, "1:00:00"), (3725, "1:02:05"), (-5, "0:00")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_announcement_is_printed_unless_the_work_ends_first() -> None:
    printed = threading.Event()

    def note(text: str) -> None:
        lines.append(text)
        printed.set()

    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ine_jax.progress.note", note)
        announce("quick", after=3600)()
        announce("loading tiny", after=0)
        assert printed.wait(10)
    assert lines == ["loading tiny"]
