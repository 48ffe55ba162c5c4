"""How fast the page of a report opens, and searches, filters and sorts its items, in headless Chromium.

    PYTHONPATH=. python benchmarks/report_items.py runs/demo/summary.json [--items 10000]

Prints milliseconds, each the median of five turns: from the navigation to the page's load event, and from an input to
the table that shows its result, layout included.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from ine_jax.reporting.listing import Listed, Listing
from ine_jax.reporting.page import page
from scripts.browser import Browser, browser

TURNS = 5
WORDS = ("stiletto", "panda", "revolver", "balloon", "grenade", "butterfly", "cleaver", "tree")
CELLS = 12
INPUT = """(() => {{ const start = performance.now(); const field = document.getElementById("{id}");
field.value = "{value}"; field.dispatchEvent(new Event("input")); document.body.offsetHeight;
return performance.now() - start; }})()"""
SORT = """(() => { const start = performance.now(); document.querySelectorAll(".index button")[3].click();
document.body.offsetHeight; return performance.now() - start; })()"""


def listing(count: int) -> Listing:
    """Items with prompts of some length and outcomes in `CELLS` cells."""
    items = []
    for i in range(count):
        words = [WORDS[(i * k + k) % len(WORDS)] for k in (1, 3, 5)]
        prompt = f"a photo of a {words[0]} next to a {words[1]} and a {words[2]} on a blue background, number {i}"
        outcomes = ["sfu"[(i * k) % 3] for k in range(1, CELLS + 1)]
        items.append(Listed("attack", f"attack-{i:05d}", prompt, i, "", outcomes))
    return Listing(tuple(f"model, guard {k}" for k in range(CELLS)), tuple(items), count)


def opened(tab: Browser, path: Path) -> float:
    """Milliseconds until the page is loaded."""
    start = time.perf_counter()
    tab.open(path)
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("summary", type=Path)
    parser.add_argument("--items", type=int, default=10_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, browser() as tab:
        path = Path(folder) / "report.html"
        path.write_text(page(json.loads(args.summary.read_text("utf-8")), listings=[listing(args.items)]), "utf-8")
        tab.view(1400, 1000)
        found = {"open": [opened(tab, path) for _ in range(TURNS)]}
        found["search"] = [tab.run(INPUT.format(id="search", value=WORDS[i])) for i in range(TURNS)]
        tab.run(INPUT.format(id="search", value=""))
        found["filter"] = [tab.run(INPUT.format(id="outcome", value="fsuf"[i % 4])) for i in range(TURNS)]
        tab.run(INPUT.format(id="outcome", value=""))
        found["sort"] = [tab.run(SORT) for _ in range(TURNS)]
        size = path.stat().st_size
    for name, times in found.items():
        print(f"{name}: {statistics.median(times):.0f} ms ({min(times):.0f} to {max(times):.0f})")
    print(f"{args.items} items, {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
