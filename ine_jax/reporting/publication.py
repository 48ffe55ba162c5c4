"""A run as a dataset for the Hugging Face Hub: blurred previews, Parquet, a card, and records for other tools."""

import datetime
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageFilter

from ine_jax.errors import InputError, clean
from ine_jax.evaluation.records import Summary
from ine_jax.evaluation.summary import summarise
from ine_jax.reporting import eval_records, text
from ine_jax.reporting.grids import escape, grids
from ine_jax.reporting.labels import negative_text
from ine_jax.reporting.sheets import Reader
from ine_jax.storage.atomic import atomic_folder, lock, write_durable
from ine_jax.storage.images import decode
from ine_jax.storage.records import Row
from ine_jax.storage.runs import Run, open_run
from ine_jax.storage.sealed import corrupt, pretty

SIDE = 128  # pixels of a preview
BLUR = 0.1  # of its side: the radius; nothing is recognizable, and the file holds nothing sharper
PER_FOLDER = 1000
TABLES = 6  # of the card
PREVIEWS = "previews"


@dataclass(frozen=True)
class Published:
    """A written dataset: its folder, the number of previews, and of records for other tools."""

    folder: Path
    previews: int
    records: int


def publish(directory: Path, target: Path, *, repo: str = "", licence: str = "other") -> Published:
    """Write a finished run as a dataset folder. Nothing is uploaded.

    The folder holds `previews/` (blurred WebP, and metadata.parquet with prompt, seed, cell, outcome and scores of
    every image), `README.md`, `summary.json`, `every_eval_ever/`, and, with `repo`, `eval_results/` for the pages of
    the models.

    Args:
        directory: a run directory, or that of `ine demo`.
        target: a new folder.
        repo: owner/name that the dataset is to have on the hub.
        licence: identifier for the card.

    Raises:
        InputError: no finished run, `target` exists, or pyarrow is missing.
        CorruptRunError: a stored file is not what was written.
    """
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise InputError(f"{target} exists", "a new folder", "name another, or remove it")
    inner = directory / "evaluation"
    with lock(directory, reading=True):
        run = open_run(inner if (inner / "run.json").is_file() else directory)
        summary = summarise(run)
        if not summary["complete"]:
            raise InputError(f"{directory} is not finished", "a finished run", "run ine evaluate again to continue it")
        started = int((run.root / "run.json").stat().st_mtime)
        day = datetime.datetime.fromtimestamp(started, datetime.UTC).date().isoformat()
        with atomic_folder(target, 0o755) as folder:
            rows = list(_previews(run, summary, folder / PREVIEWS))
            _write(folder / PREVIEWS / "metadata.parquet", _parquet(rows))
            records = _records(summary, started, day, repo)
            for path, content in records.items():
                _write(folder / path, content.encode())
            _write(folder / "summary.json", pretty(summary).encode())
            _write(folder / "README.md", card(summary, repo or str(target), day, licence, len(rows)).encode())
    return Published(target, len(rows), len(records))


def upload(folder: Path, repo: str) -> str:
    """Upload a written dataset to the hub as a private repository; return its address."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
    api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=folder, commit_message="ine publish")
    return f"https://huggingface.co/datasets/{repo}"


def card(summary: Summary, name: str, day: str, licence: str, count: int) -> str:
    """Return the dataset's card: finding, tables, how to load it, what the previews are."""
    from huggingface_hub import DatasetCardData

    data = DatasetCardData(
        license=licence,
        pretty_name=f"Safety evaluation {clean(name, 80)}",
        tags=["safety", "unlearning", "diffusion", "evaluation", "not-for-all-audiences"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": f"{PREVIEWS}/**"}]}],
    )
    tables = [line for grid, _ in zip(grids(summary), range(TABLES), strict=False) for line in grid.markdown()]
    lines = [
        *("---", data.to_yaml(), "---", "", f"# Safety evaluation {escape(name, 80)}", ""),
        f"Run of {day} with ine_jax: {count} images. {text.finding(summary)}",
        "",
        "The previews are small and blurred beyond recognition; the sharp images are not part of this dataset. Prompts"
        " may be offensive. The licence covers the previews and numbers; prompts have the licence of their prompt set.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f'rows = load_dataset("{clean(name, 80)}", split="train")',
        "```",
        "",
        *tables,
    ]
    return "\n".join(lines) + "\n"


def preview(data: bytes) -> bytes:
    """Return a stored PNG as a small blurred WebP."""
    image = decode(data, ("PNG",))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.filter(ImageFilter.GaussianBlur(BLUR * max(image.size))).save(buffer, "WEBP", quality=60)
    return buffer.getvalue()


def _previews(run: Run, summary: Summary, folder: Path) -> Iterator[dict[str, object]]:
    """Write the preview of every image; yield its row."""
    readers = {name: Reader(run, summary, entry["measure"]) for name, entry in run.config["lists"].items()}
    number = 0
    for k in run.blocks():
        rows, sums = run.rows(k), run.sums(k)
        reader = readers[rows[0]["list"]]
        lines = {line["id"]: line for line in run.scores(reader.detector, k) or ()}
        for row in rows:
            try:
                small = preview(run.read(k, row["file_name"], sums))
            except ValueError as error:
                raise corrupt(run.block(k) / row["file_name"], error) from error
            name, line = f"{number // PER_FOLDER:03d}/{number:06d}.webp", lines.get(row["id"])
            _write(folder / name, small)
            number += 1
            scores = line["labels"] if line is not None and line["status"] == "scored" else {}
            counted = {"outcome": reader.outcome(row, line), "scores": json.dumps(scores, sort_keys=True)}
            yield {"file_name": name, **_fields(run, row), **counted, "png_sha256": sums[row["file_name"]]}


def _fields(run: Run, row: Row) -> dict[str, object]:
    """Return what is known of an image: its item, and its cell."""
    spec = run.config["cells"][row["cell"]]
    scale, own = row.get("guidance", spec["guidance"]["scale"]), spec["guidance"]["negative_scale"]
    return {
        "id": row["id"],
        "prompts": row["list"],
        "prompt": row["prompt"],
        "seed": row["seed"],
        "model": spec["model"],
        "guard": spec["guard"],
        "guidance_scale": float(scale),
        "negative_scale": None if own is None else float(own),
        "negative": negative_text(spec),
        "role": spec["role"],
    }


def _parquet(rows: list[dict[str, object]]) -> bytes:
    """Return the rows as a Parquet file."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError(
            "ine publish without pyarrow", "the extra parquet", "pip install 'ine_jax[parquet]'"
        ) from error
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def _records(summary: Summary, started: int, day: str, repo: str) -> dict[str, str]:
    """Return the records for other tools by their path in the folder; those of model pages need the dataset's name."""
    evaluator = repo.partition("/")[0] or "local"
    found = eval_records.every_eval_ever(summary, started, evaluator)
    texts = {f"every_eval_ever/{path}": json.dumps(each, indent=1) + "\n" for path, each in found.items()}
    pages = eval_records.eval_results(summary, repo, day) if repo else {}
    return texts | {f"eval_results/{path}": each for path, each in pages.items()}


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durable(path, data)
