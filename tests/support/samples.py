"""A summary with everything that a summary may hold, and figures that mean nothing."""

from collections.abc import Sequence
from typing import Any

KINDS = ("none", "explicit", "blend", "implicit")
METRICS = {"lpips-64@1": {"kind": "metric", "weights": "0" * 64}, "clip-score@1": {"kind": "metric"}}


def rate(k: int, n: int, name: str) -> dict[str, Any]:
    return {
        "k": k,
        "n": n,
        name: k / n,
        "low": max(0.0, k / n - 0.1),
        "high": min(1.0, k / n + 0.1),
        "unscored": 1,
        "degenerate": 0,
    }


def entry(k: int, name: str, text: str) -> dict[str, Any]:
    """A list's entry with categories and metrics."""
    return {
        **rate(k, 20, name),
        "categories": {f"violence{text}": rate(k // 2, 10, name), f"self-harm{text}": rate(k - k // 2, 10, name)},
        "metrics": {"clip-score@1": {"mean": 0.25 + k / 100, "low": 0.2, "high": 0.5, "n": 20, "unscored": 0}},
    }


def cell(model: str, guard: str, kind: str, text: str) -> dict[str, Any]:
    """A cell with a defended list, a kept one, and one of harmless prompts that has metrics only."""
    k = 3 + 4 * KINDS.index(kind) + ord(guard[1]) % 3
    name = "" if kind == "none" else text
    found: dict[str, Any] = {"model": model, "guard": guard, "negative": kind, "negative_name": name}
    found |= {"method": "negative", "scale": 7.5, "negative_scale": None if kind == "none" else 6.5}
    if kind in ("explicit", "blend"):
        found["words"] = [f"nudity{text}", "=1+1"]
    if kind in ("blend", "implicit"):
        found |= {"embeddings": ["f" * 64], "embedding_from": model, "embedding_seed": 0}
    lpips = {"mean": 0.1 + 0.02 * k, "low": 0.1, "high": 0.1 + 0.04 * k, "n": 20, "unscored": 0}
    prior = {
        "metrics": {"lpips-64@1": lpips},
        "fid": {"value": 20.0 + k, "n": 20, "unscored": 0, "real": {"value": 30.0 + k, "n": 20}},
    }
    return found | {
        f"i2p{text}": entry(k, "dsr", text),
        "benign": entry(20 - k // 3, "rate", text),
        f"coco{text}": prior,
        "seconds_per_image": 0.5,
    }


GUARDS = ("negative", "sld-max", "safree")


def summary(text: str = "", models: int = 2, guards: Sequence[str] = GUARDS) -> Any:
    """The whole: `text` stands wherever a user may write."""
    cells = [
        cell(f"model-{m}{text}", guard + text, kind, text)
        for m in range(models)
        for guard in guards
        for kind in KINDS
        if kind != "none" or guard == guards[0]
    ]
    cells[0]["guard"] = f"cfg{text}"
    test = {
        "n": 20,
        "both": 3,
        "only_a": 1,
        "only_b": 9,
        "difference": 0.4,
        "p": 0.021,
        "p_holm": 0.042,
        "embedding_seed": 0,
    }
    steps = [i / 20 for i in range(1, 20, 3)]
    list_name, metric = f"i2p{text}", "clip-score@1"
    return {
        "schema": 1,
        "detector": f"nudenet@3{text}",
        "preset": {"name": f"duo{text}", "detector": "nudenet", "labels": [f"A{text}"], "group": "", "threshold": 0.2},
        "images": {"total": 900, "processed": 880, "unscored": 20, "degenerate": 0},
        "complete": False,
        "cells": cells,
        "controls": [cell(f"base{text}", f"sld-max{text}", "implicit", text)],
        "paired": [
            {"model": c["model"], "guard": c["guard"], "list": f"i2p{text}", "a": "explicit", "b": "implicit", **test}
            | {"scale": c["scale"], "negative_scale": c["negative_scale"]}
            | {"a_name": text, "b_name": text, "embedding_from": c["model"]}
            for c in cells
            if c["negative"] == "implicit"
        ],
        "sensitivity": [
            {
                "cell": i,
                "list": f"i2p{text}",
                "thresholds": steps,
                "rate": [None if t < 0.1 else min(1.0, c[f"i2p{text}"]["dsr"] + t * t / 2) for t in steps],
            }
            for i, c in enumerate(cells)
        ],
        "differences": [
            {"model": c["model"], "guard": c["guard"], "list": list_name, "a": "explicit", "b": "implicit"}
            | {"a_name": text, "b_name": text, "embedding_from": c["model"], "embedding_seed": 0, "metric": metric}
            | {"difference": 0.08, "low": 0.01, "high": 0.15, "n": 20}
            | {"scale": c["scale"], "negative_scale": c["negative_scale"]}
            for c in cells
            if c["negative"] == "implicit"
        ],
        "lists": {
            list_name: {"measure": "defended", "n": 20},
            "benign": {"measure": "kept", "n": 20},
            f"coco{text}": {"measure": "prior", "n": 20},
        },
        "others": {
            f"q16@1{text}": {
                "preset": {"name": f"q16{text}", "detector": "q16", "labels": ["bad"], "group": "", "threshold": 0.5},
                "images": {"total": 900, "processed": 900, "unscored": 0, "degenerate": 0},
                "rates": [{"cell": i, "list": list_name, **rate(i + 1, 20, "dsr")} for i in range(len(cells))],
                "sensitivity": [],
            }
        },
        "metrics": METRICS,
        "detectors": {f"nudenet@3{text}": {"kind": "detector", "labels": [f"A{text}"]}},
        "sampler": {"steps": 50, "scheduler": "ddim", "height": 512, "width": None, "batch": 8},
        "commands": [["ine", "evaluate", f"configs/{text}"]],
        "versions": {"python": "3.11.7"},
        "commit": f"0123{text}",
        "hashes": {"models": {f"model-0{text}": {"unet": "e" * 64}}, "embeddings": {}, "prompts": {f"i2p{text}": "d"}},
    }
