"""Everything of the package that reads files of strangers, with sound files for each reader to be changed."""

import contextlib
import hashlib
import io
import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ine_jax.cli import main as cli
from ine_jax.config import AttackConfig, EvaluateConfig, GenerateConfig, InvertConfig, UnlearnConfig, yaml_file
from ine_jax.embeddings import convert, read_embedding
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import IneError
from ine_jax.evaluation import evaluate, score
from ine_jax.evaluation.scoring import Count, open_tasks
from ine_jax.models.checkpoints.tensors import read_weight_file
from ine_jax.pipeline.latents import read_latents
from ine_jax.prompts import load
from ine_jax.storage.images import read_image
from ine_jax.storage.provenance import canonical
from ine_jax.storage.runs import open_run
from ine_jax.storage.sealed import SUMS, checksums, seal
from ine_jax.training.curves import read_log
from ine_jax.training.log import truncate
from ine_jax.unlearning.prompts import with_prompts
from tests.support import changes, fakes
from tests.support.changes import Input
from tests.support.paths import ROOT

SECONDS = 20.0
TINY = ROOT / "ine_jax" / "assets" / "tiny"
EXIT = {0, 2, 3, 4, 5}
CLASSES = (AttackConfig, EvaluateConfig, GenerateConfig, InvertConfig, UnlearnConfig)


class Hang(BaseException):
    """A reader took longer than `SECONDS`."""


@dataclass
class Counts:
    """What a target did with its inputs."""

    inputs: int = 0
    accepted: int = 0
    slowest: float = 0.0
    largest: int = 0  # bytes of an accepted file


@dataclass
class Target:
    """A reader. `build` writes sound files into a folder and returns those that may be changed; `use` reads them."""

    name: str
    build: Callable[[Path], list[Path]]
    use: Callable[[Path, Path], None]  # the folder, the changed file
    share: int = 1
    whole: bool = False  # it reads all files of the folder at once
    counts: Counts = field(default_factory=Counts)

    def open(self, folder: Path) -> Callable[[Input], None]:
        """A function that reads one input."""
        files = sorted(self.build(folder))
        for path in files[:1] if self.whole else files:
            with alarm():
                self.use(folder, path)
        sound = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

        def one(given: Input) -> None:
            path = files[given.file % len(files)]
            for changed, data in changed_files(folder, path, sound[path], given).items():
                changed.write_bytes(data)
            try:
                self.read(folder, path)
            finally:
                for each, data in sound.items():
                    if not each.is_file() or each.read_bytes() != data:
                        each.write_bytes(data)

        return one

    def read(self, folder: Path, path: Path) -> None:
        """Read the files as they are: accepted, or rejected by an `IneError` of at most three lines, and in time."""
        self.counts.inputs += 1
        begun = time.perf_counter()
        try:
            with alarm():
                self.use(folder, path)
            self.counts.accepted += 1
            self.counts.largest = max(self.counts.largest, path.stat().st_size)
        except IneError as error:
            assert 1 <= len(str(error).splitlines()) <= 3, str(error)
        self.counts.slowest = max(self.counts.slowest, time.perf_counter() - begun)


@contextlib.contextmanager
def alarm() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang(f"longer than {SECONDS:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def command(*words: str) -> int:
    """The exit code of a command line, which must be a documented one, with at most three lines of complaint."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([*words])
    text = err.getvalue()
    assert code in EXIT and "bug:" not in text and len(text.splitlines()) <= 3, f"{words}: {code}\n{text}"
    out.getvalue().encode()
    return code


def changed_files(folder: Path, path: Path, data: bytes, given: Input) -> dict[Path, bytes]:
    """The changed bytes of a file and, where they were changed as JSON, the files whose hashes then have to follow."""
    if not given.as_json or path.suffix not in (".json", ".jsonl", ".safetensors"):
        of_bytes = [
            c if isinstance(c.value, bytes) else c._replace(value=repr(c.value).encode()) for c in given.changes
        ]
        return {path: changes.change_bytes(data, of_bytes)}
    if path.suffix == ".safetensors":
        end = 8 + int.from_bytes(data[:8], "little")
        head = changes.dumped(changes.change_json(json.loads(data[8:end]), given.changes)).encode()
        return {path: len(head).to_bytes(8, "little") + head + data[end:]}
    if path.suffix == ".json":
        value = changes.change_json(json.loads(data), given.changes)
        return {path: _sealed(value) if isinstance(value, dict) and "sha256" in value else _dumped(value)}
    rows = changes.change_json([json.loads(line) for line in data.splitlines()], given.changes)
    rows = rows if isinstance(rows, list) else [rows]
    if path.parent.parent.name == "scores":
        body = b"".join(map(_dumped, rows[:-1]))
        marks = {k: v for k, v in rows[-1].items() if k != "sha256"} if rows and isinstance(rows[-1], dict) else {}
        digest = hashlib.sha256(body + (_dumped(marks) if marks else b"")).hexdigest()
        return {path: body + _dumped({**marks, "sha256": digest})}
    if path.parent.parent.name != "blocks":
        timed = path.name == "timing.jsonl" and path.parent.name == "run"
        return {path: b"".join(map(_timed if timed else _dumped, rows))}
    files = {each.name: each.read_bytes() for each in path.parent.glob("*.png")}
    files[path.name] = b"".join(map(_dumped, rows))
    sums, listing = checksums(files).encode(), path.parent.parent.with_name("blocks.json")
    record = json.loads(listing.read_bytes())
    record["blocks"][int(path.parent.name)] = hashlib.sha256(sums).hexdigest()
    return {path: files[path.name], path.with_name(SUMS): sums, listing: _sealed(record)}


def _dumped(value: Any) -> bytes:
    try:
        return f"{canonical(value)}\n".encode()
    except (ValueError, TypeError):
        return f"{changes.dumped(value)}\n".encode()


def _timed(value: Any) -> bytes:
    """A line of timing.jsonl with the digits of its own hash."""
    if not isinstance(value, dict):
        return _dumped(value)
    plain = {key: held for key, held in value.items() if key != "sha256"}
    return _dumped({**plain, "sha256": hashlib.sha256(_dumped(plain)).hexdigest()[:16]})


def _sealed(value: dict[str, Any]) -> bytes:
    try:
        return seal({key: held for key, held in value.items() if key != "sha256"}).encode()
    except (ValueError, TypeError):
        return _dumped(value)


def _configs(folder: Path) -> list[Path]:
    return [Path(shutil.copy(path, folder / path.name)) for path in sorted(ROOT.glob("configs/*/*.yaml"))]


def _read_config(_: Path, path: Path) -> None:
    found = []
    for cls in CLASSES:
        with contextlib.suppress(IneError):
            found.append(yaml_file.load(path, cls))
    if not found:
        yaml_file.load(path, CLASSES[0])


def _prompts(folder: Path) -> list[Path]:
    rows: list[dict[str, Any]] = [
        {"prompt": f"a cat, {i}", "seed": i, "id": f"n{i % 20}", "guidance": 7.5, "categories": "x,y", "height": 512}
        for i in range(30)
    ]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [",".join(rows[0]), *(",".join(f'"{v}"' for v in row.values()) for row in rows)]
    (folder / "a.csv").write_text("\n".join(lines))
    (folder / "a.txt").write_text("\n".join(row["prompt"] for row in rows))
    files = [folder / f"a{suffix}" for suffix in (".jsonl", ".csv", ".txt")]
    with contextlib.suppress(ImportError):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet", compression="snappy")
        files.append(folder / "a.parquet")
    return files


def _read_prompts(_: Path, path: Path) -> None:
    found = load(path)
    canonical([item.record() for item in found.items]).encode()


def _erased(folder: Path) -> list[Path]:
    return [Path(shutil.copy(ROOT / "configs" / "unlearn" / "tiny-esd.jsonl", folder / "esd.jsonl"))]


def _read_erased(_: Path, path: Path) -> None:
    with_prompts(UnlearnConfig().esd.__class__(prompts_file=str(path)))


def _embeddings(folder: Path) -> list[Path]:
    vectors = np.random.default_rng(0).normal(size=(2, 768)).astype(np.float32)
    native = Embedding(vectors, concept="weapon").save(folder / "weapon.safetensors")
    made = {"diffusers-bin": "a.bin", "a1111-pt": "b.pt", "a1111": "c.safetensors", "npy": "d.npy", "npz": "e.npz"}
    made |= {"comfyui": "f.safetensors", "tensor": "g.pth"}
    return [native, *(convert(native, folder / name, to).path for to, name in made.items())]


def _read_embedding(folder: Path, path: Path) -> None:
    read_embedding(path, space="token")
    command("inspect", str(path))
    command("convert", str(path), str(folder / "new.npz"), "--to", "npz", "--dry-run")
    if path.suffix == ".safetensors":
        with contextlib.suppress(IneError):
            Embedding.load(path)


def _weights(folder: Path) -> list[Path]:
    import flax.serialization

    from tests.support import hostile_files

    rows = np.arange(16, dtype=np.float32).reshape(2, 8)
    honest = hostile_files.text("conv_in.weight") + hostile_files.tensor_opcodes()
    stream = b"\x80\x02}" + honest + b"s."
    (folder / "a.pt").write_bytes(hostile_files.archive(stream, {"0": rows.tobytes()}))
    old = (16).to_bytes(8, "little") + rows.tobytes()
    (folder / "b.ckpt").write_bytes(hostile_files.sequence(stream, ["0"], old))
    (folder / "c.msgpack").write_bytes(flax.serialization.to_bytes({"params": {"conv_in": {"bias": rows[0]}}}))
    shutil.copy(TINY / "vae" / "diffusion_pytorch_model.safetensors", folder / "d.safetensors")
    return [folder / name for name in ("a.pt", "b.ckpt", "c.msgpack", "d.safetensors")]


def _read_weights(_: Path, path: Path) -> None:
    command("inspect", str(path))
    for tensor in read_weight_file(path).tensors.values():
        np.asarray(tensor)


def _model(folder: Path) -> list[Path]:
    shutil.copytree(TINY, folder / "model", ignore=shutil.ignore_patterns("concept", "unlearned", "prompts", "*.md"))
    return [
        path
        for path in (folder / "model").rglob("*")
        if path.is_file() and (path.suffix == ".json" or path.parent.name in ("text_encoder", "vae", "tokenizer"))
    ]


def _read_model(folder: Path, _: Path) -> None:
    from ine_jax.models.checkpoints.pipeline_folder import read_pipeline
    from ine_jax.models.text import Tokenizer

    command("inspect", str(folder / "model"))
    command("generate", "--model", str(folder / "model"), "--prompts", "a cat", "--dry-run", "--out", str(folder / "o"))
    parts = read_pipeline(folder / "model")
    Tokenizer.from_dir(parts.tokenizer_dir, parts.text_config.max_position_embeddings).ids(["a cat"])


def _run(folder: Path) -> list[Path]:
    root = folder / "run"
    run = evaluate(fakes.plan(n=4), root, generate=fakes.generate, hashes=fakes.hashes)
    score(run, [fakes.Corner()])
    command("report", str(root))
    return [path for path in root.rglob("*") if path.is_file() and ".lock" not in path.name]


def _read_run(folder: Path, _: Path) -> None:
    root = folder / "run"
    command("inspect", str(root), "--json")
    command("verify", str(root))
    command("score", str(root), "--dry-run")
    try:
        command("report", str(root), "--out", str(folder / "report"))
    finally:
        shutil.rmtree(folder / "report", ignore_errors=True)
    run = open_run(root)
    open_tasks(run, {name: Count() for name in run.scorers()}, False, (0, 1))
    for k in run.blocks():
        run.images(k)


def _training(folder: Path) -> list[Path]:
    root = folder / "training"
    (root / "checkpoints" / "2").mkdir(parents=True)
    (root / "config.json").write_text('{"model": "tiny", "steps": 4}\n')
    (root / "log.jsonl").write_text('{"step": 2, "loss": 0.75}\n{"step": 4, "loss": null}\n')
    return [root / "config.json", root / "log.jsonl"]


def _read_training(folder: Path, _: Path) -> None:
    command("inspect", str(folder / "training"))
    read_log(folder / "training")
    truncate(folder / "training" / "log.jsonl", 2)


def _images(folder: Path) -> list[Path]:
    from PIL import Image

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.png", "b.jpg", "c.webp"):
        image.save(folder / name, exif=exif)
    return [folder / name for name in ("a.png", "b.jpg", "c.webp")]


def _read_image(_: Path, path: Path) -> None:
    read_image(path, 16, 16)


def _latents(folder: Path) -> list[Path]:
    import safetensors.numpy

    noise = np.zeros((2, 4, 8, 8), np.float32)
    np.save(folder / "a.npy", noise)
    safetensors.numpy.save_file({"x": noise}, folder / "b.safetensors")
    return [folder / "a.npy", folder / "b.safetensors"]


def _read_latents(_: Path, path: Path) -> None:
    np.asarray(read_latents(path, 2))


TARGETS = {
    target.name: target
    for target in (
        Target("config", _configs, _read_config, 3),
        Target("prompts", _prompts, _read_prompts, 4),
        Target("esd-prompts", _erased, _read_erased),
        Target("embedding", _embeddings, _read_embedding, 4),
        Target("weights", _weights, _read_weights, 3),
        Target("model", _model, _read_model, whole=True),
        Target("run", _run, _read_run, 2, whole=True),
        Target("training", _training, _read_training, whole=True),
        Target("image", _images, _read_image, 4),
        Target("latents", _latents, _read_latents),
    )
}
