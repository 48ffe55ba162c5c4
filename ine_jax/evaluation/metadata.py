"""metadata.jsonl at the root of a run, which makes the directory a dataset of Hugging Face's ImageFolder:

datasets.load_dataset("imagefolder", data_dir="runs/evaluate", split="train")
"""

from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.records import Row
from ine_jax.storage.runs import Run
from ine_jax.storage.sealed import jsonl

NAME = "metadata.jsonl"


def metadata(run: Run) -> str:
    """One line per image: the record of its block, its path from the root, and which cell of the grid it is of."""
    keys = ("model", "guard", "negative", "negative_name", "role")
    cells = [{key: value for key, value in spec.items() if key in keys} for spec in run.config["cells"]]
    rows = (
        {**_own(row), **cells[row["cell"]], "file_name": f"{run.block(k).relative_to(run.root)}/{row['file_name']}"}
        for k in run.blocks()
        for row in run.rows(k)
    )
    return jsonl(list(rows))


def _own(row: Row) -> dict[str, object]:
    """The record without what ties it to its block."""
    return {key: value for key, value in row.items() if key not in ("run", "block")}


def write_metadata(run: Run) -> None:
    """Write it for a run with all its blocks, unless it is there."""
    if not (run.root / NAME).exists():
        write_atomic(run.root / NAME, metadata(run))
