"""Inputs that a reader once failed on, as the campaign printed them: target and input. The tests read each again."""

from tests.support.changes import HUGE, Change, Input

CORPUS: tuple[tuple[str, Input], ...] = (
    ("run", Input(0, True, [Change(3, 0, HUGE)])),
    ("prompts", Input(2, True, [Change(642, 0, None)])),
    ("embedding", Input(2, True, [Change(1, 0, None)])),
    ("model", Input(253, True, [Change(224, 0, None)])),
    ("run", Input(147, False, [Change(1219, 0, b"\\ud800")])),
)
