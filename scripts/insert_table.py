"""Put the table of a scored run into a page, between `<!-- table: NAME -->` and `<!-- end -->`; nothing is typed.

    python -m scripts.insert_table runs/guards guards docs/guidance.md
    python -m scripts.insert_table runs/methods methods docs/results.md --only guards-and-negatives

With --only the tables of these names, which their files in report-tables/ have. The table is the Markdown of the run's
summary.json (`ine report DIR`) with the seconds per image of its timing, and with the command and the machine under it.
"""

import argparse
import json
import os
import platform
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ine_jax.evaluation.records import Summary
from ine_jax.evaluation.summary import add_times
from ine_jax.reporting.grids import grids
from ine_jax.reporting.text import markdown
from ine_jax.storage.runs import open_run


def titled(table: str) -> str:
    """The Markdown with bold titles in place of headings; the first table needs none."""
    table = re.sub(r"\A### .*\n\n", "", table)
    table = table.replace("### Paired tests\n", "### Paired tests (b instead of a, on the same items)\n")
    return re.sub(r"^### (.*)$", r"**\1**", table, flags=re.MULTILINE)


def lines(summary: Summary, names: Sequence[str]) -> Iterator[str]:
    """Yield the lines of the tables of these names, without their titles."""
    found = {grid.name: grid for grid in grids(summary)}
    if unknown := set(names) - set(found):
        raise SystemExit(f"no table {', '.join(sorted(unknown))}; there are {', '.join(found)}")
    for name in names:
        yield from found[name].markdown()[4:]


def main() -> None:
    """Insert from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("page", type=Path)
    parser.add_argument("--only", nargs="+", metavar="TABLE", default=())
    args = parser.parse_args()
    summary = add_times(json.loads((args.run / "summary.json").read_text()), open_run(args.run))
    commands = "; ".join(f"`{' '.join(command)}`" for command in summary["commands"])
    tables = "\n".join(lines(summary, args.only)) if args.only else titled(markdown(summary))
    text = f"{tables}\nFrom {commands}, on {os.cpu_count()} {platform.machine()} CPU cores.\n"
    page = args.page.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- table: {re.escape(args.name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(page):
        raise SystemExit(f"{args.page} has no place for a table named {args.name}")
    args.page.write_text(pattern.sub(lambda m: m[1] + text + m[2], page), encoding="utf-8")


if __name__ == "__main__":
    main()
