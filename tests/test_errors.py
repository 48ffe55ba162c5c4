"""Errors: three printable lines, and no label written twice."""

import ast
import re

from ine_jax import errors
from ine_jax.errors import InputError, clean
from tests.support.paths import ROOT

KINDS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.IneError)}
LABEL = re.compile(r"\s*(allowed|next)\s*:", re.IGNORECASE)


def test_messages_hold_no_control_characters() -> None:
    hostile = "a\x1b[31mred\r\nb\u202egnp.exe\u2028c\x00\x9b" + "d" * 5000
    assert clean(hostile).isprintable()
    assert len(clean(hostile)) <= 240
    lines = str(InputError(hostile, hostile, hostile)).splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)


def test_labels_of_the_three_lines_are_added_once() -> None:
    """`str(error)` puts "allowed: " before the second part and "next: " before the third; no part writes its own."""
    twice = []
    for path in sorted((ROOT / "ine_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
                firsts = [part.values[0] if isinstance(part, ast.JoinedStr) else part for part in node.args]
                texts = [part.value for part in firsts if isinstance(part, ast.Constant)]
                twice += [f"{path.name}:{node.lineno} {text!r}" for text in texts if LABEL.match(str(text))]
    assert twice == []
