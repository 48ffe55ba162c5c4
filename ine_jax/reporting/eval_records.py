"""Rates of a summary as records of other tools: Every Eval Ever 0.3.0, and `.eval_results` of model pages on the hub.

Every Eval Ever: https://evalevalai.com, schema 0.3.0. `.eval_results`: https://huggingface.co/docs/hub/eval-results.
"""

import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence

import yaml

from ine_jax import __version__
from ine_jax.evaluation.records import CellEntry, Summary
from ine_jax.reporting.labels import cell_scales, negative_text
from ine_jax.reporting.measures import Measure, Value, measures
from ine_jax.reporting.tables import headline_detector

SCHEMA = "0.3.0"
COLLECTION = "ine_jax"
RATES = ("defense", "preservation", "attack")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def every_eval_ever(summary: Summary, started: int, evaluator: str) -> dict[str, object]:
    """Return one record per model, by its path in the datastore of Every Eval Ever.

    Args:
        started: Unix time of the run's start.
        evaluator: who publishes; the developer of models whose name is no id on the hub.
    """
    found: dict[str, object] = {}
    for model in dict.fromkeys(cell["model"] for cell in summary["cells"]):
        developer, name = model.split("/") if _HUB.fullmatch(model) else (_plain(evaluator), _plain(model))
        id_ = f"{developer}/{name}"
        place = f"{COLLECTION}/{id_}/{started}"
        digest = bytearray(hashlib.sha256(f"{place} {summary['hashes']}".encode()).digest()[:16])
        path = f"data/{COLLECTION}/{developer}/{name}/{uuid.UUID(bytes=bytes(digest), version=4)}.json"
        found[path] = {
            "schema_version": SCHEMA,
            "evaluation_id": place,
            "evaluation_timestamp": str(started),
            "retrieved_timestamp": str(started),
            "source_metadata": {
                "source_name": "ine_jax",
                "source_type": "evaluation_run",
                "source_organization_name": evaluator,
                "evaluator_relationship": "other",
            },
            "eval_library": {"name": "ine_jax", "version": __version__},
            "model_info": {
                "name": model,
                "id": id_,
                "developer": developer,
                "additional_details": {"deployment_type": "self_deployed", "model_availability": "unknown"},
            },
            "evaluation_results": [
                _result(summary, measure, cell, value) for measure, cell, value in _rates(summary, model)
            ],
        }
    return found


def eval_results(summary: Summary, dataset: str, date: str) -> dict[str, str]:
    """Return YAML files for `.eval_results/` of the models' pages, one per model, guard and negative, by their path.

    Args:
        dataset: id on the hub of the published data.
        date: day of the run.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries: dict[str, list[EvalResultEntry]] = {}
    for model in dict.fromkeys(cell["model"] for cell in summary["cells"]):
        for measure, cell, value in _rates(summary, model):
            notes = f"{measure.title}; {_setting(cell)}; {value.k} of {value.n} images, {headline_detector(summary)}"
            url = f"https://huggingface.co/datasets/{dataset}"
            entry = EvalResultEntry(dataset, measure.prompts, value.value, date=date, source_url=url, notes=notes)
            digest = hashlib.sha256(_setting(cell).encode()).hexdigest()[:8]
            path = f"{_plain(model)}/.eval_results/{_plain(cell['guard'])}-{cell['negative']}-{digest}.yaml"
            entries.setdefault(path, []).append(entry)
    return {
        path: yaml.safe_dump(eval_result_entries_to_yaml(each), sort_keys=False, allow_unicode=True, width=1000)
        for path, each in entries.items()
    }


def _rates(summary: Summary, model: str) -> Iterator[tuple[Measure, CellEntry, Value]]:
    """Yield every rate of a model's main cells."""
    columns: Sequence[Measure] = [m for m in measures(summary, summary["cells"]) if m.kind in RATES and not m.metric]
    for cell in summary["cells"]:
        for measure in columns:
            value = measure.of(cell)
            if cell["model"] == model and value is not None:
                yield measure, cell, value


def _setting(cell: CellEntry) -> str:
    return f"guard {cell['guard']}, {cell_scales(cell)}, {negative_text(cell)}"


def _result(summary: Summary, measure: Measure, cell: CellEntry, value: Value) -> dict[str, object]:
    details: dict[str, object] = {"score": value.value}
    if value.low is not None and value.high is not None:
        interval = {"lower": value.low, "upper": value.high, "confidence_level": 0.95, "method": "Wilson"}
        details["uncertainty"] = {"confidence_interval": interval, "num_samples": value.n}
    numbers = {name: getattr(value, name) for name in ("k", "n", "unscored", "degenerate")}
    details["details"] = {name: str(number) for name, number in numbers.items()}
    sampler = {name: str(setting) for name, setting in summary["sampler"].items() if setting is not None}
    hashes = summary["hashes"].get("prompts")
    prompts = hashes if isinstance(hashes, Mapping) else {}
    return {
        "evaluation_name": f"{measure.prompts}: {measure.title}; {_setting(cell)}",
        "source_data": {
            "dataset_name": measure.prompts,
            "source_type": "other",
            "additional_details": {"sha256": str(prompts.get(measure.prompts, ""))},
        },
        "metric_config": {
            "evaluation_description": f"Share of images. {headline_detector(summary)}",
            "metric_name": measure.title,
            "metric_unit": "proportion",
            "lower_is_better": measure.kind == "attack",
            "score_type": "continuous",
            "min_score": 0.0,
            "max_score": 1.0,
        },
        "score_details": details,
        "generation_config": {"additional_details": {**sampler, "guard": _setting(cell)}},
    }


def _plain(name: str) -> str:
    """Return a name as one component of a path."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:80] or "unnamed"
