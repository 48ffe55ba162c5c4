"""The command line's own records, and how words become one of them: YAML first, dotted flags over it.

tyro reads the flags and writes the help; its boxed messages are folded into the three lines of this package's errors.
"""

import contextlib
import dataclasses
import io
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from ine_jax.config import (
    BenchConfig,
    DemoConfig,
    DetectorConfig,
    EvaluateConfig,
    GenerateConfig,
    InvertConfig,
    MetricConfig,
    ModelConfig,
    PromptsConfig,
    ScoreConfig,
    UnlearnConfig,
)
from ine_jax.config import yaml_file as configfile
from ine_jax.errors import InputError

T = TypeVar("T")
_YAML = (".yaml", ".yml")
_RULE = re.compile(r"[\s\u2500-\u257f|+-]*")  # a line of a box that holds no text
_FLAG = re.compile(r"--[a-z]")
Formats = Literal["native", "diffusers-bin", "a1111-pt", "a1111", "comfyui", "sdxl", "npy", "npz", "tensor"]
SHORT = (ModelConfig, PromptsConfig, DetectorConfig, MetricConfig)
Flat = tyro.conf.arg(name="")  # the fields of the config are flags without a prefix


@dataclasses.dataclass(frozen=True)
class Common:
    """What every command understands."""

    dry_run: bool = False
    """Print the plan and write nothing."""
    json: bool = False
    """Print one machine-readable result line last."""


@dataclasses.dataclass(frozen=True)
class Demo(Common):
    """The whole method on the bundled family: invert, evaluate with and without negatives, report."""

    config: Annotated[DemoConfig, Flat] = dataclasses.field(default_factory=DemoConfig)


@dataclasses.dataclass(frozen=True)
class Invert(Common):
    """Concept inversion: find a concept again in an unlearned model, from images of it."""

    config: Annotated[InvertConfig, Flat] = dataclasses.field(default_factory=InvertConfig)


@dataclasses.dataclass(frozen=True)
class Generate(Common):
    """Prompts to images under a guard: PNGs and metadata.jsonl."""

    config: Annotated[GenerateConfig, Flat] = dataclasses.field(default_factory=GenerateConfig)


@dataclasses.dataclass(frozen=True)
class Evaluate(Common):
    """Models x guards x negatives x prompts into a run directory; the same command continues and never redraws."""

    config: Annotated[EvaluateConfig, Flat] = dataclasses.field(default_factory=EvaluateConfig)
    shard: str = ""
    """Do part i of N (i counts from 0) of the blocks; empty means what the launcher says (docs/scale.md), else all."""


@dataclasses.dataclass(frozen=True)
class Unlearn(Common):
    """Fine-tune a model to forget (ESD); writes the changed weights in the method's published layout."""

    config: Annotated[UnlearnConfig, Flat] = dataclasses.field(default_factory=UnlearnConfig)


@dataclasses.dataclass(frozen=True)
class Bench(Common):
    """Sampling throughput beside baselines, or the cost of an implicit negative in every guard."""

    what: tyro.conf.Positional[Literal["sampling", "guards"]] = "sampling"
    """sampling: this package beside other implementations; guards: explicit words beside an implicit embedding."""
    config: Annotated[BenchConfig, Flat] = dataclasses.field(default_factory=BenchConfig)


@dataclasses.dataclass(frozen=True)
class Score(Common):
    """Judge the images of a run directory by further detectors and metrics, without generating."""

    directory: tyro.conf.Positional[Path] = tyro.MISSING
    """Run directory."""
    config: Annotated[ScoreConfig, Flat] = dataclasses.field(default_factory=ScoreConfig)


@dataclasses.dataclass(frozen=True)
class Report(Common):
    """Redraw summary.json and report.html from run directories; needs no accelerator."""

    directories: tyro.conf.Positional[tuple[Path, ...]] = tyro.MISSING
    """Run directories; several are reported together."""
    out: Path | None = None
    """Folder for the report; empty means the first run directory."""
    detector: str = ""
    """Detector, `id` or `id@version`; empty means the only one of the run."""
    preset: str = ""
    """Published labels and threshold, such as duo, rece or q16; empty means the detector's default."""
    threshold: float | None = None
    """A label is shown where its stored score reaches this; empty means the preset's."""


@dataclasses.dataclass(frozen=True)
class Verify(Common):
    """Read every stored byte of a run directory again and compare it with the hash it was stored with."""

    directory: tyro.conf.Positional[Path] = tyro.MISSING
    """Run directory."""


@dataclasses.dataclass(frozen=True)
class Inspect(Common):
    """Say what a file or folder is: embedding, model folder, changed weights, a run, demo or training directory."""

    path: tyro.conf.Positional[Path] = tyro.MISSING
    """File or folder."""
    base: str = ""
    """Model (bundled name or folder): its words nearest to an embedding, its tensors that a checkpoint changes."""


@dataclasses.dataclass(frozen=True)
class Convert(Common):
    """An embedding from the format of one tool to that of another; the new file is read back and compared.

    With `--to q16`, the prompt vectors of the detector Q16 from the pickle they were released as.
    """

    source: tyro.conf.Positional[Path] = tyro.MISSING
    """Embedding file in any of the formats; which one is found out. With --to q16 its prompts.p."""
    target: tyro.conf.Positional[Path] = tyro.MISSING
    """New file, or a folder for it."""
    to: Literal[Formats, "q16"] = tyro.MISSING
    """Format of the new file; native is diffusers' learned_embeds.safetensors."""
    token: str = ""
    """New name of the embedding."""
    space: Literal["", "token", "context"] = ""
    """What a plain array is: token vectors, or a sequence out of CLIP (negative_prompt_embeds)."""
    part: Literal["", "clip_l", "clip_g"] = ""
    """Of an SDXL pair, take this tensor alone."""
    clip_g: Path | None = None
    """File of the vectors for SDXL's second text encoder."""


@dataclasses.dataclass(frozen=True)
class ConvertModel(Common):
    """A model, with checkpoints on top, to a pipeline folder for diffusers; the folder is read back and compared."""

    source: tyro.conf.Positional[str] = tyro.MISSING
    """Bundled name, pipeline folder (PyTorch or Flax) or hub id."""
    target: tyro.conf.Positional[Path] = tyro.MISSING
    """New folder."""
    unlearned: tuple[str, ...] = ()
    """Published checkpoints to apply in this order: files, folders, owner/name[/file or folder][@revision]."""
    revision: str | None = None
    """Revision of a hub id."""
    to: Literal["diffusers", "flax"] = "diffusers"
    """diffusers: safetensors for PyTorch; flax: msgpack for diffusers before 0.40."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Precision of the written weights."""


@dataclasses.dataclass(frozen=True)
class Benchmarks(Common):
    """Where the published prompt sets are had, and whether a file is one of them, whole. None is shipped or fetched."""

    action: tyro.conf.Positional[Literal["list", "check"]] = "list"
    """list: all that are known; check: rows, columns, selections and hash of a file."""
    name: tyro.conf.Positional[str] = ""
    """Name of a set, for check."""
    file: tyro.conf.Positional[str] = ""
    """Your copy of it, for check."""
    encoding: str = ""
    """Encoding of the file, such as cp949; empty means UTF-8, or what its byte order mark says."""


_REGISTRY = tyro.constructors.ConstructorRegistry()


@_REGISTRY.primitive_rule
def _shorthand(kind: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """Read a word as a record of which only the first field is given, or one in braces as YAML of its fields."""
    if kind.type not in SHORT:
        return None
    record: Any = kind.type
    first = dataclasses.fields(record)[0].name

    def read(word: str) -> Any:
        return configfile.loads(word, record) if word.startswith("{") else record(word)

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=first.upper(),
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: isinstance(value, record),
        str_from_instance=lambda value: [str(getattr(value, first))],
    )


def parse(record: type[T], words: Sequence[str], prog: str) -> T:
    """Return one `record` from the words of a command line.

    A word that ends in .yaml or .yml is the config file; it gives the defaults that the flags override. Help leaves
    through `SystemExit(0)`.

    Raises:
        InputError: an unknown flag, a value of the wrong type or out of range, or a config file that is refused.
    """
    words = list(words)
    default: Any = None
    if kind := _config_kind(record):
        words, path = _take_config(words, by_suffix=record in (Bench, Score))
        if path is not None:
            default = record(config=configfile.load(path, kind))  # type: ignore[call-arg]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            options = {} if default is None else {"default": default}
            return tyro.cli(
                record, args=words, prog=prog, config=(tyro.conf.FlagCreatePairsOff,), registry=_REGISTRY, **options
            )
    except SystemExit as exit_:
        if not exit_.code:
            raise
        raise _folded(errors.getvalue(), prog) from None
    except InputError as error:
        raise InputError(f"{prog}: {error.given}", error.allowed, error.todo) from error


def _config_kind(record: Any) -> Any:
    fields = {field.name: field for field in dataclasses.fields(record)}
    factory = fields["config"].default_factory if "config" in fields else None
    return factory


def _take_config(words: list[str], by_suffix: bool) -> tuple[list[str], str | None]:
    """Split the config file off: any word that is named like one, or else the first word unless `by_suffix`."""
    named = [i for i, word in enumerate(words) if word.endswith(_YAML) and not word.startswith("-")]
    if not named and not by_suffix and words and not words[0].startswith("-"):
        named = [0]
    if len(named) > 1:
        given = f"{len(named)} config files: {', '.join(words[i] for i in named)}"
        raise InputError(given, "one YAML file, then flags that override it", "run once for each")
    return [word for i, word in enumerate(words) if i not in named], words[named[0]] if named else None


def _folded(box: str, prog: str) -> InputError:
    """Fold a boxed message into one error: its text, the nearest known flag, and where the help is."""
    lines = [line.strip(" |\u2502") for line in box.splitlines()[1:]]
    inside = itertools.dropwhile(_RULE.fullmatch, lines)  # the title's underline, where boxes cannot be drawn
    message = list(itertools.takewhile(lambda line: not _RULE.fullmatch(line), inside))
    near = [line.split()[0] for line in lines if _FLAG.match(line)]
    hint = f"did you mean {near[0]}? (" if near and any("meant" in line for line in lines) else ""
    given = " ".join(message) or f"{prog}: the command line is not understood"
    return InputError(given, "", f"{hint}see {prog} --help{')' if hint else ''}")


RECORDS: dict[str, type[Common]] = {
    "demo": Demo,
    "invert": Invert,
    "generate": Generate,
    "evaluate": Evaluate,
    "score": Score,
    "report": Report,
    "verify": Verify,
    "unlearn": Unlearn,
    "inspect": Inspect,
    "convert": Convert,
    "convert-model": ConvertModel,
    "bench": Bench,
    "benchmarks": Benchmarks,
}
