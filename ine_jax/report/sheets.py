"""The same items side by side across the cells of a run: which pictures the page shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ine_jax.errors import clean
from ine_jax.report.pictures import data_uri
from ine_jax.runs import Run

SHOWN = {"attack": 8, "benign": 4}
OTHERS = 4
PROMPT_CHARS = 90


def sheets(summary: Mapping[str, Any], run: Run) -> list[dict[str, Any]]:
    """The first items of each list across the main cells: rows are items, columns are cells."""
    specs = run.config["cells"]
    main = [i for i, spec in enumerate(specs) if spec["role"] == "main"]
    found = []
    for name in (n for n in run.config["lists"] if any(n in specs[i]["lists"] for i in main)):
        columns = [i for i in main if name in specs[i]["lists"]]
        rows = _rows(run, name, columns, SHOWN.get(name, OTHERS), summary)
        if rows:
            found.append({"list": name, "rows": rows, "columns": [specs[i] for i in columns]})
    return found


def _rows(run: Run, name: str, columns: Sequence[int], count: int, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    about = json.loads(run.scores_path(summary["detector"], 0).with_name("detector.json").read_text())
    concept = set(about.get("groups", {}).get(summary["preset"]["group"], ()))
    found: dict[str, dict[str, Any]] = {}
    for k in run.blocks():
        rows = run.rows(k)
        if not rows or rows[0]["list"] != name or rows[0]["cell"] not in columns:
            continue
        scores = {line["id"]: line for line in run.scores(summary["detector"], k) or ()}
        for row in rows:
            if row["id"] not in found and len(found) >= count:
                continue
            item = found.setdefault(
                row["id"], {"prompt": clean(row["prompt"], PROMPT_CHARS), "seed": row["seed"], "cells": {}}
            )
            verdict = _verdict(scores.get(row["id"]), concept, summary["preset"]["threshold"])
            item["cells"][row["cell"]] = {"uri": data_uri(run.image(k, row["file_name"])), **verdict}
    return [{**item, "cells": [item["cells"].get(i) for i in columns]} for item in found.values()]


def _verdict(line: Mapping[str, Any] | None, concept: set[str], threshold: float) -> dict[str, str]:
    if line is None or line["status"] != "scored":
        return {"text": "unscored", "kind": "unscored"}
    shown = sorted(
        (label for label, value in line["labels"].items() if value >= threshold), key=lambda x: x not in concept
    )
    return {"text": clean(", ".join(shown) or "nothing", 40), "kind": "shows" if set(shown) & concept else "clear"}
