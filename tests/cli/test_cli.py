"""The command line: exit codes, at most three lines, nothing written, help and plans."""

import json
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import ine_jax
from ine_jax.cli import main as cli
from ine_jax.cli.command import Outcome
from ine_jax.cli.inspect import Inspect
from ine_jax.cli.parsing import COMMANDS, parse
from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import CorruptRunError, InputError, Interrupted, ItemErrors, NumericalError

Capture = pytest.CaptureFixture[str]
NAMES = sorted(kind.command_name() for kind in COMMANDS)
ESCAPE = "\x1b]0;owned\x07\x1b[31mred\u202e"


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory; crash reports go beside it."""
    place, crashes = tmp_path / "work", tmp_path / "crashes"
    place.mkdir()
    crashes.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr("tempfile.tempdir", str(crashes))
    return place


def files(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def call(words: list[str], capsys: Capture) -> tuple[int, str, str]:
    code = cli.main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def damaged_embedding(place: Path) -> None:
    Embedding(np.ones((1, 8), np.float32), "token", "weapon", "tiny").save(place / "whole.safetensors")
    (place / "cut.safetensors").write_bytes((place / "whole.safetensors").read_bytes()[:-7])
    (place / "noise.safetensors").write_bytes(b"\x00" * 4000)


def inputs(place: Path) -> None:
    """Files that the wrong calls below are made with."""
    (place / "empty").mkdir()
    (place / "text").mkdir()
    (place / "text" / "a.png").write_text("not an image")
    (place / "flat").mkdir()
    Image.new("RGB", (8, 8)).save(place / "flat" / "a.png")
    for name, text in {
        "five": "inversion: {learning_rate: 5e-3}",
        "broken": "model: [tiny",
        "unknown": "inversion: {stepz: 3}",
        "twice": "model: a\nmodel: b",
        "listed": "- 1",
        "code": "model: !!python/object/apply:os.getcwd []",
        "deep": "[" * 60 + "]" * 60,
        "range": "inversion: {steps: -1}",
        "contradiction": "images: flat\nconcepts: [{concept: a, images: flat}]",
        "noimages": "concepts: [{concept: a}]",
        "guards": "guards: [{name: a}, {name: a}]",
        "negatives": "negatives: [{words: knife}, {words: gun}]",
        "interval": "guards: [{guidance: {interval: [0.5, 0.2]}}]",
        "erase": "model: tiny\nesd: {erase: []}",
    }.items():
        (place / f"{name}.yaml").write_text(text)
    (place / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (place / "rows.jsonl").write_text("not json\n")
    (place / "rows.csv").write_text("prompt\na\n")
    damaged_embedding(place)


WRONG = [
    "frobnicate",
    "--verison",
    "invrt",
    "invert absent.yaml",
    "invert five.yaml",
    "invert broken.yaml",
    "invert unknown.yaml",
    "invert twice.yaml",
    "invert listed.yaml",
    "invert code.yaml",
    "invert deep.yaml",
    "invert range.yaml",
    "invert binary.yaml",
    "invert contradiction.yaml",
    "invert noimages.yaml",
    "invert empty",
    "invert five.yaml broken.yaml",
    "invert --inversion.stepz 3",
    "invert --inversion.steps ten",
    "invert --inversion.steps 0",
    "invert --inversion.steps",
    "invert --inversion.learning-rate nan",
    "invert --inversion.space pixel",
    "invert --inversion.templates bare {} photo",
    "invert --images empty",
    "invert --images absent",
    "invert --images text",
    "invert --images text --dry-run",
    "invert --images whole.safetensors",
    "invert --model ./absent/model --images flat --dry-run",
    "generate",
    "generate --prompts-file absent.txt",
    "generate --prompts-file rows.jsonl",
    "generate --prompts-file nothing.csv",
    "generate --prompts a --negative.embedding cut.safetensors",
    "generate --prompts a --negative.embedding noise.safetensors",
    "generate --prompts a --negative.embedding no-such-name",
    "generate --prompts a --negative.embedding whole.safetensors --negative.words knife",
    "generate --prompts a --negative.blend 0.5",
    "generate --prompts a --negative.template bare --negative.embedding whole.safetensors",
    "generate --prompts a --guidance.method slid",
    "generate --prompts a --guidance.inner sld",
    "generate --prompts a --negative knife",
    "generate --prompts a --sampler.height 33",
    "generate --prompts a --sampler.scheduler lms",
    "generate --prompts a --model ./absent",
    "evaluate guards.yaml",
    "evaluate negatives.yaml",
    "evaluate interval.yaml",
    "evaluate --shard 2/2",
    "evaluate --shard one",
    "evaluate --threshold 0.4",
    "evaluate --prompts absent.jsonl",
    "score",
    "score absent",
    "score empty",
    "report",
    "report absent",
    "report absent --threshold 2",
    "unlearn erase.yaml",
    "unlearn --esd.method esd-z",
    "unlearn --esd.preserve-weight 1",
    "inspect",
    "inspect absent",
    "inspect empty",
    "inspect cut.safetensors",
    "inspect noise.safetensors",
    "inspect rows.csv",
    "bench --baselines tpu",
    "bench --sampler.unet-impl diffusers",
    "demo --items 0",
    "demo --out",
]


@pytest.mark.parametrize("line", WRONG)
def test_wrong_calls_leave_in_three_lines_and_write_nothing(line: str, workplace: Path, capsys: Capture) -> None:
    inputs(workplace)
    before = files(workplace)
    code, out, err = call(line.split(), capsys)
    assert code == 2, err
    assert out == ""
    assert 1 <= len(err.splitlines()) <= 3
    assert "Traceback" not in err
    assert all(len(row) <= 260 and row.isprintable() for row in err.splitlines())
    assert files(workplace) == before
    assert files(workplace.parent / "crashes") == []


def test_five_e_minus_three_is_explained(workplace: Path, capsys: Capture) -> None:
    inputs(workplace)
    _, _, err = call(["invert", "five.yaml"], capsys)
    assert "five.yaml: inversion.learning_rate is the text '5e-3'" in err
    assert "write 0.005" in err


REJECTED = {
    "invrt": ["ine: unknown command invrt", "*", "next: did you mean `ine invert`?"],
    "--verison": ["ine: unknown option --verison", "*", "next: did you mean `ine --version`?"],
    "invert --inversion.stepz 3": [
        "ine invert: unknown option --inversion.stepz",
        "next: did you mean --inversion.steps? (see ine invert --help)",
    ],
    "evaluate --guards.0.guidance.scal 3": [
        "ine evaluate: unknown option --guards.0.guidance.scal",
        "next: did you mean --guards.0.guidance.scale? (see ine evaluate --help)",
    ],
    "score run words": ["ine score: unknown argument words", "next: see ine score --help"],
    "invert --inversion.steps ten": [
        "ine invert: --inversion.steps: invalid literal for int() with base 10: 'ten'",
        "allowed: a whole number",
        "next: see ine invert --help",
    ],
    "invert --inversion.steps": ["ine invert: --inversion.steps without its value", "next: see ine invert --help"],
    "invert --inversion.space pixel": [
        "ine invert: --inversion.space: 'pixel'",
        "allowed: token, context",
        "next: see ine invert --help",
    ],
    "bench gards": [
        "ine bench: what: 'gards'",
        "allowed: sampling, inversion, evaluation, guards, cold-start",
        "next: see ine bench --help",
    ],
    "bench --dtype float12": [
        "ine bench: --dtype: 'float12'",
        "allowed: float32, bfloat16",
        "next: see ine bench --help",
    ],
    "convert a": ["ine convert: target, --to missing", "next: see ine convert --help"],
    "invert --inversion.steps 0": [
        "ine invert: steps: 0",
        "allowed: a finite number of at least 1, at most 2147483647",
        "next: change steps and run again",
    ],
}


@pytest.mark.parametrize("line", REJECTED)
def test_what_a_rejection_says(line: str, capsys: Capture) -> None:
    """Every kind of event that tyro reports, in full: a new version of tyro shows here first."""
    code, out, err = call(line.split(), capsys)
    assert (code, out) == (2, "")
    found = err.splitlines()
    assert len(found) == len(REJECTED[line])
    assert all(want in ("*", line) for want, line in zip(REJECTED[line], found, strict=True)), found


def test_flags_take_hyphens_and_underscores(capsys: Capture) -> None:
    for flag in ("--inversion.learning-rate", "--inversion.learning_rate"):
        out = call(["invert", flag, "0.25", "--dry_run", "--json"], capsys)[1]
        assert json.loads(out.splitlines()[-1])["config"]["inversion"]["learning_rate"] == 0.25


def test_errors_are_machine_readable_too(capsys: Capture) -> None:
    code, out, err = call(["inspect", "absent", "--json"], capsys)
    last = json.loads(out.splitlines()[-1])
    assert (code, last["ok"], last["exit_code"]) == (2, False, 2)
    assert last["error"] == err.splitlines()


def test_version_and_overview(capsys: Capture) -> None:
    assert call(["--version"], capsys)[:2] == (0, f"ine {ine_jax.__version__}\n")
    for words in ([], ["--help"], ["-h"], ["help"]):
        with pytest.raises(SystemExit) as left:
            cli.main(words)
        assert left.value.code in (0, None)
        out = capsys.readouterr().out
        assert all(name in out for name in NAMES)
        assert "75 interrupted" in out


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help(name: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([name, "--help"])
    assert left.value.code in (0, None)
    out = capsys.readouterr().out
    assert f"usage: ine {name}" in out
    assert "--dry-run" in out
    assert "--json" in out


def test_plan_shows_flags_over_yaml_and_writes_nothing(workplace: Path, capsys: Capture) -> None:
    (workplace / "flat").mkdir()
    Image.new("RGB", (8, 8)).save(workplace / "flat" / "a.png")
    (workplace / "model").mkdir()
    (workplace / "c.yaml").write_text("model: ./model\nimages: flat\ninversion: {steps: 7, batch: 3}\n")
    before = files(workplace)
    code, out, err = call(["invert", "c.yaml", "--inversion.steps", "9", "--dry-run", "--json"], capsys)
    assert (code, err) == (0, "")
    plan = json.loads(out.splitlines()[-1])
    assert plan["dry_run"] is True
    assert plan["config"]["inversion"]["steps"] == 9
    assert plan["config"]["inversion"]["batch"] == 3
    assert plan["images"] == {"concept": 1}
    assert "writes: runs/invert (new)" in out
    assert files(workplace) == before


@pytest.mark.parametrize(
    ("line", "loaded"),
    [
        ("invert --base tiny --inversion.init rece", "tiny-unlearned-0, tiny"),
        ("evaluate --models tiny tiny-unlearned-0", "tiny, tiny-unlearned-0"),
        ("report a b", "a, b"),
        ("convert weapon-tiny w.bin --to diffusers-bin", "weapon-tiny"),
        ("demo", "its files"),
    ],
)
def test_a_command_names_what_it_loads(line: str, loaded: str) -> None:
    name, *_ = line.split()
    assert parse(line.split()).opening() == f"ine {name}: loading {loaded}"


def test_inspect_reads_an_embedding(workplace: Path, capsys: Capture) -> None:
    Embedding(np.ones((2, 8), np.float32), "token", "weapon", "tiny").save(workplace / "e.safetensors")
    code, out, _ = call(["inspect", "e.safetensors", "--json"], capsys)
    facts = json.loads(out.splitlines()[-1])
    assert code == 0
    assert (facts["kind"], facts["vectors"], facts["width"]) == ("embedding", 2, 8)
    assert facts["concept"] == "weapon"


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("a"), 2),
        (NumericalError("a", "b", "c"), 3),
        (ItemErrors("a"), 4),
        (CorruptRunError("a"), 5),
        (Interrupted("a"), 75),
        (KeyboardInterrupt(), 75),
        (PermissionError(13, "Permission denied", "out"), 2),
        (OSError(28, "No space left on device", "out"), 74),
        (MemoryError(), 2),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"), 2),
    ],
)
def test_exit_codes(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(Inspect, "run", failing(error))
    found, _, err = call(["inspect", "x"], capsys)
    assert found == code
    assert 1 <= len(err.splitlines()) <= 3
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "error", [RuntimeError("broken inside"), OSError("no number"), AssertionError(), KeyError("x")]
)
def test_a_bug_leaves_its_traceback_in_a_private_file(
    error: Exception, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(Inspect, "run", failing(error))
    code, out, err = call(["inspect", "x", "--json"], capsys)
    assert code == 1
    assert len(err.splitlines()) == 1
    path = Path(json.loads(out)["traceback"])
    assert path.name in err
    assert "Traceback" in path.read_text()
    assert type(error).__name__ in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert files(workplace) == []


def test_terminal_escapes_in_text_from_outside_are_not_printed(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (workplace / "c.yaml").write_text(json.dumps({"prompts": [ESCAPE], ESCAPE: 1}))
    for words in (["inspect", ESCAPE], ["generate", "c.yaml"], [ESCAPE], ["generate", f"--{ESCAPE}", "1"]):
        code, out, err = call(words, capsys)
        assert code == 2
        assert not set(out + err) & set("\x1b\x07\u202e")
    outcome = Outcome((ESCAPE, "  two  columns"), {"text": ESCAPE})
    monkeypatch.setattr(Inspect, "run", lambda *_: outcome)
    code, out, _ = call(["inspect", "x", "--json"], capsys)
    assert code == 0
    assert not set(out) & set("\x1b\x07\u202e")
    assert "  two  columns" in out
    assert json.loads(out.splitlines()[-1])["text"] == ESCAPE


words = st.sampled_from(
    [
        *NAMES,
        "--json",
        "--dry-run",
        "--out",
        "--model",
        "--inversion.steps",
        "a.yaml",
        "1",
        "-1",
        "nan",
        "--",
        "",
        "x",
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=st.lists(st.one_of(words, st.text(max_size=6)), max_size=5))
def test_any_words_are_rejected_planned_or_helped(line: list[str], workplace: Path, capsys: Capture) -> None:
    try:
        code = cli.main([*line, "--dry-run"])
    except SystemExit as left:
        code = int(left.code or 0)
    err = capsys.readouterr().err
    assert code in (0, 2), err
    assert len(err.splitlines()) <= 3
    assert "Traceback" not in err
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", err)
    assert files(workplace) == []
