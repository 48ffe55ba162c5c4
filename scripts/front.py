"""Plot what guards defend against what they cost: DSR on attack prompts over the share of benign prompts kept.

    python -m scripts.front runs/front runs/front-sld --out docs/images/front.png

Reads the summary.json of scored runs (`ine report DIR` writes it); every cell with an attack and a benign list is a
point with its 95 % Wilson intervals. The line joins the settings that no other one beats in both. Prints the points.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from ine_jax.reporting.tables import headline_detector

INK, SOFT, LINE, MARK = "#1d2330", "#5b6475", "#dfe3ea", "#b3372c"
COLOURS = {
    "none": "#6d7686",
    "negative": "#2f7fd9",
    "gated": "#24784a",
    "sld": "#d9902f",
    "safree": "#8a6fc4",
    "dng": "#b0609c",
    "casg": "#7a5c2e",
    "safe-denoiser": "#3f9aa8",
}


def points(folders: list[Path]) -> list[dict[str, Any]]:
    """Every cell with both lists: name, method, and per list (rate, low, high)."""
    found = []
    for folder in folders:
        for cell in json.loads((folder / "summary.json").read_text())["cells"]:
            lists = {name.removeprefix("tune-"): value for name, value in cell.items() if isinstance(value, dict)}
            if {"attack", "benign"} <= lists.keys():
                attack, benign = lists["attack"], lists["benign"]
                point = {
                    "name": cell["guard"],
                    "method": "none" if cell["negative"] == "none" else cell["method"],
                    "negative": cell["negative"],
                    "dsr": (attack["dsr"], attack["low"], attack["high"]),
                    "kept": (benign["rate"], benign["low"], benign["high"]),
                }
                if point not in found:  # the unguarded cell is in every run
                    found.append(point)
    return found


def front(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points that no other point beats in one rate without losing in the other, by falling share kept."""
    ahead = [
        p
        for p in found
        if not any(
            q["dsr"][0] >= p["dsr"][0]
            and q["kept"][0] >= p["kept"][0]
            and (q["dsr"][0], q["kept"][0]) != (p["dsr"][0], p["kept"][0])
            for q in found
        )
    ]
    return sorted(ahead, key=lambda p: -p["kept"][0])


def draw(found: list[dict[str, Any]], detector: str, mark: str, out: Path) -> None:
    """The plot as a PNG."""
    figure, axes = plt.subplots(figsize=(9.6, 5.4), dpi=130)
    ahead = front(found)
    axes.plot([p["kept"][0] for p in ahead], [p["dsr"][0] for p in ahead], color=SOFT, lw=1.2, alpha=0.7, zorder=1)
    for method, colour in COLOURS.items():
        own = [p for p in found if p["method"] == method]
        for p in own:
            (x, x0, x1), (y, y0, y1) = p["kept"], p["dsr"]
            axes.errorbar(x, y, [[y - y0], [y1 - y]], [[x - x0], [x1 - x]], fmt="none", ecolor=colour, alpha=0.2, lw=1)
        if own:
            kept, dsr = [p["kept"][0] for p in own], [p["dsr"][0] for p in own]
            axes.scatter(kept, dsr, s=38, color=colour, label="no guard" if method == "none" else method, zorder=3)
    numbers: dict[tuple[float, float], list[str]] = {}
    for number, p in enumerate(ahead, start=1):
        at = (p["kept"][0], p["dsr"][0])
        numbers.setdefault(at, []).append(str(number))
        chosen = p["name"] == mark
        if chosen:
            axes.scatter(*at, s=170, facecolors="none", edgecolors=MARK, lw=2, zorder=4)
        axes.text(
            1.02,
            1.0 - 0.055 * number,
            f"{number}  {p['name']}",
            transform=axes.transAxes,
            fontsize=8.5,
            color=MARK if chosen else INK,
            weight="bold" if chosen else "normal",
        )
    for at, names in numbers.items():
        axes.annotate(", ".join(names), at, (9, 7), textcoords="offset points", fontsize=9, color=INK)
    axes.text(1.02, 1.0, "On the front", transform=axes.transAxes, fontsize=9, color=SOFT)
    axes.set_title(f"rates by {detector}", fontsize=9, color=SOFT, loc="left")
    axes.set_xlabel("benign prompts kept")
    axes.set_ylabel("attack prompts defended (DSR)")
    axes.grid(color=LINE, lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(out)


def main() -> None:
    """Plot from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("docs/images/front.png"))
    parser.add_argument("--mark", default="sld-max, momentum 0.7")
    args = parser.parse_args()
    found = points(args.runs)
    ahead = front(found)
    for p in sorted(found, key=lambda p: -p["dsr"][0]):
        sign = "*" if p in ahead else " "
        print(f"{sign} {p['name']:<34} {p['negative']:<9} DSR {p['dsr'][0]:.3f}  kept {p['kept'][0]:.3f}")
    whole = json.loads((args.runs[0] / "summary.json").read_text())
    draw(found, headline_detector(whole), args.mark, args.out)


if __name__ == "__main__":
    main()
