"""Every item of a run with its outcome in every main cell, for the page's table that can be searched."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from ine_jax.errors import clean
from ine_jax.evaluation.outcomes import Outcome
from ine_jax.evaluation.records import Summary
from ine_jax.evaluation.units import planned
from ine_jax.reporting.labels import negative_scale, negative_text, scales_text
from ine_jax.reporting.sheets import Reader, Sheet
from ine_jax.storage.records import CellSpec, RunConfig
from ine_jax.storage.runs import Run

MOST = 20_000  # items of a page
PROMPT_CHARS = 200
MISSING = "-"  # not generated, or nothing to count
CODES: Mapping[Outcome, str] = {"success": "s", "failure": "f", "unscored": "u", "": MISSING}


@dataclasses.dataclass
class Listed:
    """One item: `outcomes` has one of `CODES` per main cell, `anchor` the address of its images on the page, if any."""

    prompts: str
    id: str
    prompt: str
    seed: int
    anchor: str
    outcomes: list[str]


@dataclasses.dataclass(frozen=True)
class Listing:
    """The main cells of a run as texts, its first `MOST` items, and how many it has."""

    cells: tuple[str, ...]
    items: tuple[Listed, ...]
    total: int


def listing(summary: Summary, run: Run, sheets: Sequence[Sheet] = ()) -> Listing:
    """Return the items of a run in the order of their prompt sets; `sheets` are those that show images."""
    config: RunConfig = run.config
    main = [i for i, spec in enumerate(config["cells"]) if spec["role"] == "main"]
    anchors = {(sheet.prompts, item.id): item.anchor for sheet in sheets for item in sheet.items}
    readers = {name: Reader(run, summary, entry["measure"]) for name, entry in config["lists"].items()}
    found: dict[tuple[str, str], Listed] = {}
    seen: set[tuple[str, str]] = set()
    for unit in planned(config):
        if unit.cell not in main or not run.done(unit.k):
            continue
        reader, place = readers[unit.list], main.index(unit.cell)
        lines = {line["id"]: line for line in run.scores(reader.detector, unit.k) or ()}
        for row in run.rows(unit.k):
            key = unit.list, row["id"]
            seen.add(key)
            if key not in found and len(found) < MOST:
                id_ = clean(row["id"], 120)
                texts = unit.list, id_, clean(row["prompt"], PROMPT_CHARS)
                found[key] = Listed(*texts, row["seed"], anchors.get((unit.list, id_), ""), [MISSING] * len(main))
            if key in found:
                found[key].outcomes[place] = CODES[reader.outcome(row, lines.get(row["id"]))]
    return Listing(tuple(_label(config["cells"][i]) for i in main), tuple(found.values()), len(seen))


def data(listings: Sequence[Listing]) -> Markup:
    """Return the items as JSON that is safe inside HTML: [prompt set, id, prompt, seed, anchor, outcomes]."""
    plain = [[[*dataclasses.astuple(item)[:-1], "".join(item.outcomes)] for item in each.items] for each in listings]
    text = json.dumps(plain, separators=(",", ":"))
    for character in "&<>":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704  ASCII without a character that HTML knows


def _label(spec: CellSpec) -> str:
    scale, own = spec["guidance"]["scale"], spec["guidance"]["negative_scale"]
    scales = scales_text(scale, negative_scale(spec["negative"], own))
    return f"{spec['model']}, {spec['guard']}, {scales}, {negative_text(spec)}"
