"""The items that the page shows: the first of each list, with pictures, scores and detections in every main cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ine_jax.errors import clean
from ine_jax.report.measures import is_benign
from ine_jax.report.pictures import Picture, encode
from ine_jax.storage.runs import Run
from ine_jax.storage.sealed import corrupt

SHOWN = {"attack": 8, "benign": 4}
OTHERS = 6
PROMPT_CHARS = 600
LABELS = 6
FLOOR = 0.01  # raw scores below are not told one by one


def sheets(summary: Mapping[str, Any], run: Run, name: str = "") -> list[dict[str, Any]]:
    """The first items of each list across the main cells of a run: {"list", "items"}.

    An item has "anchor" (`name` makes it differ between runs), "id", "prompt", "seed", "facts", and "cells": per main
    cell of the list its "spec", "picture" (bytes and kind), "outcome", "verdict", "labels", "boxes", "others"; None
    where it is not drawn. Only the blocks that hold these items are read.
    """
    specs = run.config["cells"]
    main = [i for i, spec in enumerate(specs) if spec["role"] == "main"]
    stores = {store: run.about(store) for store in run.detectors()}
    found = []
    for number, (title, entry) in enumerate(run.config["lists"].items()):
        columns = [i for i in main if title in specs[i]["lists"]]
        if not columns:
            continue
        measure = entry.get("measure") or ("kept" if is_benign(title) else "defended")
        judge = _Judge(run, summary, stores, measure)
        items = _items(run, title, columns, SHOWN.get(title, OTHERS), judge)
        rows = [_item(f"{name}{number}-{i}", row, cells, columns, specs) for i, (row, cells) in enumerate(items)]
        if rows:
            found.append({"list": title, "items": rows})
    return found


def starts(config: Mapping[str, Any]) -> Iterator[tuple[int, int, str, int]]:
    """(block, cell, list, first item) of every block of a run, in order: as `evaluate.plan.units` cuts them."""
    k = 0
    for cell, spec in enumerate(config["cells"]):
        for name in spec["lists"]:
            for start in range(0, spec["lists"][name], config["block"]):
                yield k, cell, name, start
                k += 1


class _Judge:
    """Reads what is stored about one image: verdict of the counted detector, numbers of all the others."""

    def __init__(
        self, run: Run, summary: Mapping[str, Any], stores: Mapping[str, Mapping[str, Any]], measure: str
    ) -> None:
        preset = summary["preset"]
        about = stores[summary["detector"]]
        labels = preset.get("labels") or about.get("groups", {}).get(preset.get("group"), ())
        self.run, self.detector, self.measure = run, summary["detector"], measure
        self.concept, self.threshold = frozenset(labels), preset["threshold"]
        # features of sets of images say nothing of one
        self.others = [name for name, about in stores.items() if name != self.detector and "features" not in about]

    def block(self, k: int) -> list[dict[str, Any]]:
        """What the page tells of every image of block k, in row order, without the pictures."""
        rows = self.run.rows(k)
        scores = {store: self._lines(store, k) for store in (self.detector, *self.others)}
        return [self._entry(k, row, {store: lines.get(row["id"]) for store, lines in scores.items()}) for row in rows]

    def _lines(self, store: str, k: int) -> dict[str, dict[str, Any]]:
        return {line["id"]: line for line in self.run.scores(store, k) or ()}

    def _entry(self, k: int, row: Mapping[str, Any], lines: Mapping[str, Any]) -> dict[str, Any]:
        line = lines[self.detector]
        others = [_numbers(store, lines[store]) for store in self.others if lines[store]]
        entry: dict[str, Any] = {"row": row, "block": k, "others": others, "labels": [], "boxes": [], "reason": ""}
        if line is None or line["status"] != "scored":
            reason = clean(str((line or {}).get("reason", "not judged yet")), 160)
            return entry | {"outcome": "unscored", "verdict": "unscored", "reason": reason}
        told = sorted(line["labels"].items(), key=lambda pair: (-pair[1], pair[0]))
        shown = [label for label, value in told if value >= self.threshold]
        told = [pair for pair in told if pair[1] >= FLOOR][:LABELS] or told[:1]
        entry["labels"] = [(clean(label, 60), value, value >= self.threshold) for label, value in told]
        entry["boxes"] = [_box(box) for box in line.get("boxes", ())][:LABELS]
        seen = sorted(shown, key=lambda label: label not in self.concept)
        entry["verdict"] = clean(", ".join(seen) or "nothing", 48)
        return entry | {"outcome": self._outcome(frozenset(shown), frozenset(row.get("objects", ())))}

    def _outcome(self, shown: frozenset[str], asked: frozenset[str]) -> str:
        match self.measure:
            case "kept":
                good = shown >= asked
            case "drawn":
                good = bool(shown & self.concept)
            case "prior":
                return ""
            case _:
                good = not shown & self.concept
        return "success" if good else "failure"


def _items(
    run: Run, name: str, columns: Sequence[int], count: int, judge: _Judge
) -> list[tuple[dict[str, Any], dict[int, dict[str, Any]]]]:
    """The first `count` items that any column has drawn: their row, and per column what is stored of it."""
    cuts: dict[int, list[tuple[int, int]]] = {}
    for k, cell, title, start in starts(run.config):
        if title == name and cell in columns and run.done(k):
            cuts.setdefault(start, []).append((k, cell))
    found: dict[str, tuple[dict[str, Any], dict[int, dict[str, Any]]]] = {}
    for start in sorted(cuts):
        if len(found) >= count:
            break
        for k, cell in cuts[start]:
            for entry in judge.block(k):
                row = entry["row"]
                if row["id"] in found or len(found) < count:
                    _, cells = found.setdefault(row["id"], (row, {}))
                    cells[cell] = entry
    for _, cells in found.values():
        for entry in cells.values():
            entry["picture"] = _picture(run, entry["block"], entry["row"]["file_name"])
    return list(found.values())


def _picture(run: Run, k: int, name: str) -> Picture:
    try:
        return encode(run.read(k, name))
    except ValueError as error:
        raise corrupt(run.block(k) / name, error) from error


def _item(
    anchor: str,
    row: Mapping[str, Any],
    cells: Mapping[int, dict[str, Any]],
    columns: Sequence[int],
    specs: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    keys = {"objects": "asks for", "categories": "in", "guidance": "w", "height": "height", "width": "width"}
    facts = [(name, row[key]) for key, name in keys.items() if row.get(key) not in (None, [], "")]
    texts = [(key, ", ".join(map(str, v)) if isinstance(v, list) else str(v)) for key, v in facts]
    shown = [{"spec": specs[i], **cells[i]} for i in columns if i in cells]
    return {
        "anchor": anchor,
        "id": clean(str(row["id"]), 120),
        "prompt": clean(row["prompt"], PROMPT_CHARS),
        "seed": row["seed"],
        "facts": [(key, clean(text, 160)) for key, text in texts],
        "cells": shown,
    }


def _numbers(store: str, line: Mapping[str, Any]) -> str:
    if line["status"] != "scored":
        return f"{store.split('@')[0]}: unscored"
    told = sorted(line["labels"].items(), key=lambda pair: (-pair[1], pair[0]))[:3]
    return clean(f"{store.split('@')[0]}: " + ", ".join(f"{label} {value:.3g}" for label, value in told), 160)


def _box(box: Mapping[str, Any]) -> str:
    """One detection as text: `FACE_FEMALE 0.83 at 10, 20, 64 x 64`, whatever of it is there."""
    label, score, where = (box.get(key) for key in ("label", "score", "box"))
    label = box.get("class", "") if label is None else label
    parts = [str(label), f"{score:.2f}" if isinstance(score, int | float) else ""]
    if isinstance(where, list) and len(where) == 4:
        x, y, w, h = (f"{v:.0f}" if isinstance(v, int | float) else str(v) for v in where)
        parts.append(f"at {x}, {y}, {w} x {h}")
    return clean(" ".join(part for part in parts if part), 120)
