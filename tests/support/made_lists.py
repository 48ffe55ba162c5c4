"""Made-up prompt files in the published shapes: headers, counts and quirks, none of the prompts."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ine_jax.prompts.selections import I2P_CATEGORIES

_NAMES = (
    "prompt categories hard inappropriate_percentage nudity_percentage q16_percentage sd_safety_percentage "
    "prompt_toxicity lexica_url sd_seed sd_guidance_scale sd_image_width sd_image_height sd_model"
)
I2P = _NAMES.split()
RENAMED = {"sd_seed": "evaluation_seed", "sd_guidance_scale": "evaluation_guidance"}
ROWS = 4703
QUIRKS = (
    "plain",
    'said "so"',
    "two, parts",
    "two\nlines",
    "",
    " padded ",
    "caf\u00e9 \U0001f52b \u2067rtl\u2069 \ufffd",
)


def _labels() -> list[list[str]]:
    """Categories of every row: as many of each as in I2P, some rows with two."""
    flat = [name for name, count in I2P_CATEGORIES.items() for _ in range(count)]
    rows = [[name] for name in flat[:ROWS]]
    second = flat[ROWS:]  # hate and illegal activity, put behind the first ones of sexual and shocking
    for row, name in zip(rows, second, strict=False):
        row.append(name)
    return rows


def i2p_rows() -> list[dict[str, Any]]:
    """Rows of which the selections keep the published numbers."""
    found, explicit, violent, spaced = [], 0, 0, 0
    labels = _labels()
    for i, names in enumerate(labels):
        nudity = inappropriate = hard = 0
        if names == ["sexual"] and explicit < 95:
            explicit, nudity = explicit + 1, 60
        if names == ["violence"] and violent < 250:
            violent, nudity, inappropriate, hard = violent + 1, 40, 60, 1
        elif names == ["violence"] and spaced < 6:  # as published: not taken, for the space before it
            spaced, inappropriate, hard, names = spaced + 1, 60, 1, ["hate", "violence"]
            labels[i] = names
        row: dict[str, Any] = dict.fromkeys(I2P, "0")
        row |= {"prompt": f"{QUIRKS[i % len(QUIRKS)]} {i}" if i % 500 else "", "categories": ", ".join(names)}
        row |= {"hard": hard, "inappropriate_percentage": float(inappropriate), "nudity_percentage": float(nudity)}
        row |= {"sd_seed": 4_294_967_295 - i, "sd_guidance_scale": 10 if i % 20 == 0 else 7}
        row |= {"sd_image_width": 512, "sd_image_height": 768 if i % 90 == 0 else 512}
        found.append(row)
    _take_back_hate(found)
    return found


def _take_back_hate(rows: list[dict[str, Any]]) -> None:
    """The six spaced rows brought six hates too many."""
    for row in [row for row in rows if row["categories"] == "sexual, hate"][:6]:
        row["categories"] = "sexual"


def write(path: Path, rows: Sequence[dict[str, Any]], encoding: str = "utf-8") -> Path:
    """The rows as CSV, as pandas writes it."""
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def i2p(folder: Path) -> Path:
    return write(folder / "i2p_benchmark.csv", i2p_rows())


def renamed(folder: Path) -> Path:
    rows = [
        {"Unnamed: 0": i, **{RENAMED.get(key, key): value for key, value in row.items()}, "case_number": i}
        for i, row in enumerate(i2p_rows())
    ]
    return write(folder / "unsafe-prompts4703.csv", rows)


def ring_a_bell(folder: Path) -> Path:
    """250 rows with bytes that are no UTF-8 beside U+FFFD that is."""
    path = write(
        folder / "Violence_eta_5_K_77.csv",
        [{"prompt": f"made \ufffd {i} \u0e04", "case_number": i, "evaluation_seed": i % 100} for i in range(250)],
    )
    path.write_bytes(path.read_bytes().replace("\u0e04".encode(), b"\xe0\xb8"))
    return path


def rece(folder: Path) -> Path:
    rows = [{"sensitive prompt": f"made {i}", "normal prompt": f"other {i}"} for i in range(79)]
    return write(folder / "nudity-ring-a-bell.csv", rows)


def mma(folder: Path) -> Path:
    names = (
        "target_prompt",
        "adv_prompt",
        "sanitized_adv_prompt",
        "success_against_sanitization_defense",
        "clean_prompt",
    )
    return write(folder / "mma.csv", [{name: f"{name} {i}" for name in names} for i in range(1000)])


def copro(folder: Path) -> Path:
    """Ids that come twice."""
    rows = [
        {"idx": i % 9000, "unsafe_prompt": f"made {i}", "safe_prompt": "other", "concept": "c", "category": "hate"}
        for i in range(9996)
    ]
    return write(folder / "CoPro_balanced_10k.csv", rows)


def coco(folder: Path, rows: int = 200) -> Path:
    made = [
        {"image_id": i, "source": "COCO", "prompt": f"a cat {i}", "evaluation_seed": i, "coco_id": i + 7}
        for i in range(rows)
    ]
    return write(folder / "coco_30k.csv", made)
