"""One function per command of `ine`: builds what the record names, runs it, and says what came of it.

Each returns an `Outcome`; nothing here parses words or prints. What a command needs is imported when it runs.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ine_jax import assets
from ine_jax.config import (
    BenchConfig,
    DemoConfig,
    DetectorConfig,
    EvaluateConfig,
    GenerateConfig,
    InversionConfig,
    InvertConfig,
    SamplerConfig,
    ScoreConfig,
    UnlearnConfig,
)
from ine_jax.errors import InputError, NumericalError, clean
from ine_jax.progress import Progress
from ine_jax.storage.images import image_files

_SHOWN = 600  # characters of one fact on the terminal; --json has all


@dataclass(frozen=True)
class Outcome:
    """What a command prints: lines for people, and the values of the machine-readable line."""

    lines: tuple[str, ...]
    result: Mapping[str, Any] = field(default_factory=dict)


def concepts(config: InvertConfig) -> list[tuple[InversionConfig, Path]]:
    """Inversion setting and image folder of every concept of the run."""
    if not config.concepts:
        return [(config.inversion, assets.concept_images(config.images))]
    shared = config.inversion
    return [
        (dataclasses.replace(shared, concept=c.concept, init=c.init, words=c.words, seed=c.seed), Path(c.images))
        for c in config.concepts
    ]


def invert(config: InvertConfig) -> Outcome:
    """Find one or several concepts again; writes embeddings, checkpoints, loss log, curve and preview.

    Raises:
        InputError: models, images or directory cannot be used.
        Interrupted: stopped; the same call continues.
    """
    from ine_jax import inversion
    from ine_jax.pipeline import from_config

    closed, settings = config.inversion.method == "rece", concepts(config)
    for _, folder in () if closed else settings:
        image_files(folder)  # before the model is read: a wrong folder is told at once
    pipe = from_config.pipeline(config.model, config.revision, SamplerConfig(), config.unlearned)
    base = from_config.pipeline(config.base, config.base_revision, SamplerConfig()) if config.base else None
    images = [] if closed else [from_config.images(folder, pipe) for _, folder in settings]
    with Progress(
        1 if closed else config.inversion.steps, "inversion", process=from_config.process_index()
    ) as progress:
        if closed and base is not None:
            found = [inversion.derive(pipe, base, config.inversion, config.out, progress)]
        elif config.concepts:
            found = inversion.invert_many(pipe, images, [s for s, _ in settings], config.out, progress, base=base)
        else:
            found = [inversion.invert(pipe, images[0], settings[0][0], config.out, progress, base=base)]
    lines = tuple(f"{r.embedding.token}  loss {r.losses[-1]:.4f}  {r.path}" for r in found)
    values = [{"token": r.embedding.token, "path": str(r.path), "loss": float(r.losses[-1])} for r in found]
    return Outcome(lines, {"out": config.out, "embeddings": values})


def unlearn(config: UnlearnConfig) -> Outcome:
    """Fine-tune the UNet to forget; writes the changed weights in ESD's published layout.

    Raises:
        InputError: nothing to erase, or model or directory cannot be used.
        Interrupted: stopped; the same call continues.
    """
    from ine_jax.pipeline import from_config
    from ine_jax.unlearning import esd

    pipe = from_config.pipeline(config.model, config.revision, SamplerConfig())
    kept = from_config.images(Path(config.preserve_images), pipe) if config.preserve_images else None
    with Progress(config.esd.steps, "unlearning", process=from_config.process_index()) as progress:
        esd.erase(pipe, config.esd, Path(config.out), progress, preserve_images=kept)
    written = sorted(str(path) for path in Path(config.out).glob("*.safetensors"))
    return Outcome(tuple(written), {"out": config.out, "weights": written})


def generate(config: GenerateConfig) -> Outcome:
    """Draw the prompts under the guard into a folder of PNGs with metadata.jsonl.

    Raises:
        InputError: no prompts, or model, embedding or folder cannot be used.
    """
    from ine_jax.pipeline import from_config
    from ine_jax.pipeline import generation as writer

    total = len(writer.wanted_items(config))
    with Progress(total, "images", unit="images", process=from_config.process_index()) as progress:
        done = writer.generate(config, progress)
    lines = [f"{done.out}: {done.made} images made, {done.found} found complete", *filter(None, [done.read])]
    if done.truncated:
        lines.append(f"{done.truncated} prompts are longer than the text encoder reads and were cut")
    return Outcome(tuple(lines), dataclasses.asdict(done))


def benchmarks(words: Any) -> Outcome:
    """List the published prompt sets, or check a file against one; `words` is the command's record.

    Raises:
        InputError: no such set, a file that cannot be read, or one that is not the published one.
    """
    from ine_jax.prompts import checking

    if bool(words.name) + bool(words.file) != (2 if words.action == "check" else 0):
        given = f"ine benchmarks {words.action} {words.name} {words.file}".rstrip()
        raise InputError(given, "list, or check with the name of a set and a file", "see `ine benchmarks list`")
    asked = (words.name, words.file, words.encoding)
    lines, values = checking.check(*asked) if words.action == "check" else checking.listing()
    return Outcome(tuple(lines), values)


def evaluate(config: EvaluateConfig, shard: tuple[int, int], command: Sequence[str]) -> Outcome:
    """Draw and score what is missing of shard i of N; a finished shard is left alone.

    Raises:
        InputError: a plan that cannot be drawn, or a directory of another config.
        Interrupted: stopped; the same call continues.
    """
    from ine_jax.evaluation import generating as drawing
    from ine_jax.evaluation import plan_from_config, receipt

    plan = plan_from_config(config)
    missing, scorers = drawing.pending(plan, config.out, shard), None
    if missing or not receipt.judged(config, shard):
        from ine_jax.evaluation import from_config  # and with it JAX, of which a finished run has no need

        scorers = from_config.scorers(config)
    with Progress(max(1, missing), "images", unit="images") as progress:
        known = None if scorers else receipt.model_hashes(config)
        run = drawing.evaluate(plan, config.out, hashes=known, shard=shard, progress=progress, command=command)
    judged, measured = scorers.score(run, shard=shard) if scorers else (0, 0)
    if scorers and scorers.finished(run, shard):
        receipt.sign(config, shard)
    done = f"{config.out}: {missing} images drawn, {judged} judged" + (f", {measured} measured" if measured else "")
    counts = {"drawn": missing, "judged": judged, "measured": measured, "shard": list(shard)}
    told = plan.notes() + (drawing.notes(run) if missing else [])
    return Outcome((*told, done, f"next: ine report {config.out}"), {"out": config.out, **counts})


def verify(directory: Path) -> Outcome:
    """Read every stored byte of a run directory again; `CorruptRunError` where one is not as it was written."""
    from ine_jax.evaluation import verify as verification

    found = verification.sound(directory)
    return Outcome((f"{directory}: {found}",), {"out": str(directory), **dataclasses.asdict(found)})


def score(directory: Path, config: ScoreConfig) -> Outcome:
    """Judge what is not judged of a run directory, or with `rescan` every image again.

    Raises:
        InputError: no run directory, or no such detector.
        CorruptRunError: an image is not the one that was drawn.
    """
    from ine_jax.evaluation import from_config
    from ine_jax.storage.runs import open_run

    if not (config.detectors or config.metrics):
        config = dataclasses.replace(config, detectors=(DetectorConfig(),))
    run = open_run(directory)  # before weights are read
    judged, measured = from_config.scorers(config).score(run, rescan=config.rescan)
    done = f"{directory}: {judged} images judged" + (f", {measured} measured" if measured else "")
    return Outcome((done,), {"out": str(directory), "judged": judged, "measured": measured})


def report(words: Any) -> Outcome:
    """Write summary.json and report.html from what run directories hold; `words` is the command's record.

    Raises:
        InputError: not a run directory, nothing scored in it, no such detector or preset, or a threshold that is not
            between 0 and 1.
        CorruptRunError: a stored file does not verify.
    """
    from ine_jax import report as reporting
    from ine_jax.evaluation.detectors.presets import choose

    if not words.directories:
        raise InputError("ine report: no run directory", "one or more", "name the directory that `ine evaluate` wrote")
    target = Path(words.out or words.directories[0])
    preset = choose(words.preset) if words.preset else None
    options = {"detector": words.detector or None, "threshold": words.threshold}
    written = reporting.build([Path(d) for d in words.directories], target, preset, **options)
    lines = reporting.plain(json.loads((target / "summary.json").read_text()))
    return Outcome((*lines, str(written)), {"out": str(target), "report": str(written)})


def demo(config: DemoConfig, command: Sequence[str]) -> Outcome:
    """The whole method on the bundled family.

    Raises:
        InputError: the bundled model is not installed, or a directory of another config.
        Interrupted: stopped; the same call continues.
    """
    from ine_jax.cli import demo as demonstration

    outcome = demonstration.run(config, command=command)
    return Outcome(tuple(outcome.lines), outcome.result)


def bench(config: BenchConfig, what: str = "sampling") -> Outcome:
    """Time sampling beside baselines, or every guard with words and with an embedding, and write bench.json.

    Raises:
        InputError: the model cannot be read.
    """
    from ine_jax.pipeline import bench as sampling
    from ine_jax.pipeline import bench_guards

    benchmark = bench_guards if what == "guards" else sampling
    result = benchmark.run(config)
    return Outcome((*benchmark.table(result), config.out), result)


def inspect(path: Path, base: str = "") -> Outcome:
    """Say what `path` is; of an embedding also the nearest words of the model `base`.

    Raises:
        InputError: no such file, or nothing that is known here.
    """
    from ine_jax.cli import inspect as inspection

    facts = inspection.describe(path, base)
    width = max(map(len, facts))
    lines = (f"{name:<{width}}  {clean(str(value), _SHOWN)}" for name, value in facts.items())
    return Outcome(tuple(lines), facts)


def convert(words: Any) -> Outcome:
    """Write an embedding in another format, read it back and say how to use it; `words` is the command's record.

    Raises:
        InputError: the source cannot be read, the format cannot hold it, or the target exists.
    """
    from ine_jax import embeddings as conversion
    from ine_jax.embeddings import q16

    if words.to == "q16":
        return Outcome(*q16.command(words))
    done = conversion.convert(
        words.source,
        words.target,
        words.to,
        token=words.token,
        space=words.space,
        part=words.part,
        clip_g=words.clip_g or "",
        dry_run=words.dry_run,
    )
    found, state = done.item.embedding, "not written (dry run)" if words.dry_run else "read back equal"
    count, width = done.item.vectors.shape
    about = f"{found.space} {found.token}, {count} x {width} {done.item.vectors.dtype}"
    head = f"{words.source} ({done.source_format}) -> {done.path} ({done.target_format}): {about}, {state}"
    values = {"path": str(done.path), "from": done.source_format, "to": done.target_format, "token": found.token}
    values |= {"space": found.space, "vectors": count, "width": width, "dtype": str(done.item.vectors.dtype)}
    return Outcome((head, *done.use, *done.notes), {**values, "use": done.use, "notes": done.notes})


def convert_model(words: Any) -> Outcome:
    """Write a model, with checkpoints on top, as a folder for diffusers; `words` is the command's record.

    Raises:
        InputError: the model cannot be read, a checkpoint does not fit it, or the target exists.
    """
    from ine_jax.models.checkpoints import pipeline_folder

    if words.target.exists() and (words.target.is_file() or any(words.target.iterdir())):
        raise InputError(f"{words.target} exists", "a new folder", "name another, or remove it")
    parts = pipeline_folder.read_pipeline(words.source, words.revision, words.dtype, unlearned=words.unlearned)
    values = {"to": words.to, "dtype": words.dtype, "changes": list(parts.changes), "path": str(words.target)}
    head = f"{parts.name} -> {words.target} ({words.to}, {words.dtype})"
    if words.dry_run:
        return Outcome((f"{head}: not written (dry run)", *parts.changes), values)
    out = pipeline_folder.write_pipeline(parts, words.target, words.dtype, words.to)
    if not pipeline_folder.same_weights(parts, pipeline_folder.read_pipeline(out, dtype=words.dtype)):
        raise NumericalError(f"{out} does not hold what was written", "", "check the disk and write it again")
    pipe = "StableDiffusionPipeline" if words.to == "diffusers" else "FlaxStableDiffusionPipeline"
    use = (f"diffusers: {pipe}.from_pretrained({str(out)!r})", f"ine_jax: ine_jax.load({str(out)!r})")
    return Outcome((f"{head}: read back equal", *parts.changes, *use), {**values, "use": list(use)})
