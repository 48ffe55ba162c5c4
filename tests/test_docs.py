"""docs/: every command parses, every name imports, every link and path leads somewhere, every example is real."""

import ast
import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ine_jax import assets
from ine_jax.cli.parsing import COMMANDS, parse
from tests.support.format_examples import header, make
from tests.support.paths import ROOT
from tests.support.typechecking import unchecked

PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLE = ROOT / "docs" / "formats.md"
OPEN = {"versions"}  # mappings whose keys depend on what is installed
ANY = "..."  # in an example: whatever stands here, or whatever further keys


def text(page: Path) -> str:
    return page.read_text("utf-8")


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """Info and content of the fenced blocks in a language."""
    return [(m[2].strip(), m[3]) for m in FENCE.finditer(text(page)) if m[1] == language]


def lines() -> list[str]:
    """Command lines of the documentation and of the headers of the shipped configs."""
    found = [line for page in PAGES for _, block in blocks(page, "bash") for line in block.splitlines()]
    for config in sorted((ROOT / "configs").rglob("*.yaml")):
        found += [line.removeprefix("# command:") for line in text(config).splitlines() if "# command:" in line]
    return [line.strip() for line in found]


LINES = lines()


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("ine ")])
def test_every_ine_command_parses(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    _, name, *words = shlex.split(line, comments=True)
    assert parse([name, *words]).command_name() == name


@pytest.mark.parametrize("line", [line for line in LINES if "python -m scripts." in line])
def test_every_script_and_its_flags_exist(line: str) -> None:
    python, flag, module, *words = shlex.split(line, comments=True)
    assert (python, flag) == ("python", "-m")
    place = ROOT / module.replace(".", "/")
    source = text(place / "__main__.py" if place.is_dir() else place.with_suffix(".py"))
    for word in words:
        if word.startswith("--"):
            assert f'add_argument("{word}"' in source, word
        if word.startswith("{"):
            assert isinstance(json.loads(word), dict)


def test_there_are_commands() -> None:
    assert sum(line.startswith("ine ") for line in LINES) >= 10
    assert sum("scripts.train_world." in line for line in LINES) >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_named_in_passing_exist(page: Path) -> None:
    names = {kind.command_name() for kind in COMMANDS}
    for name in re.findall(r"`ine ([a-z][a-z-]*)", text(page)):
        assert name in names, name


def resolve(dotted: str) -> Any:
    """The module, or the attribute of one, that a dotted name means."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            found = getattr(found, name)
        return found
    raise ModuleNotFoundError(dotted)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_dotted_name_imports(page: Path) -> None:
    for name in sorted(set(re.findall(r"\bine_jax(?:\.[A-Za-z_]\w*)+(?![\w/])", text(page)))):
        assert resolve(name) is not None, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_path_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]*)(?:#[^)]*)?\)", text(page)):
        if target and "://" not in target and not target.startswith("docs/images/"):  # the picture is made by the demo
            assert (page.parent / target).exists(), target
    for path in re.findall(r"`((?:tests|scripts|configs|docs|ine_jax)/[\w./-]+)`", text(page)):
        if not path.startswith("ine_jax/assets/tiny"):  # written by the scripts of the world
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_anchor_is_a_heading(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", text(page)):
        headings = re.findall(r"^#+ (.+)$", text(page.parent / target if target else page), re.MULTILINE)
        slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert anchor in slugs, anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_import_what_exists(page: Path) -> None:
    for _, block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ine_jax"):
                for alias in node.names:
                    assert resolve(f"{node.module}.{alias.name}") is not None


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of file, written by the real writers."""
    with unchecked():  # a fake stands for the pipeline
        return make(tmp_path_factory.mktemp("formats"))


def same_shape(told: Any, real: Any, where: str) -> None:
    """Fail unless the example has the fields and the kinds of values of the real file; lists by their first entry."""
    if told == ANY or real is None or told is None:
        return
    if isinstance(told, dict):
        assert isinstance(real, dict), where
        if where.rpartition(".")[2] in OPEN:
            return
        assert set(told) - {ANY} == set(real) or (ANY in told and set(told) - {ANY} <= set(real)), where
        for key in set(told) - {ANY}:
            same_shape(told[key], real[key], f"{where}.{key}")
    elif isinstance(told, list):
        assert isinstance(real, list), where
        if told and real:
            same_shape(told[0], real[0], f"{where}[0]")
    else:
        number = (int, float)
        numbers = isinstance(told, number) and isinstance(real, number) and not isinstance(told, bool)
        assert numbers or type(told) is type(real), f"{where}: {told!r} for {real!r}"


def read(path: Path) -> list[Any]:
    """The JSON values of a file: one, or one per line, or the header of a safetensors file."""
    if path.suffix == ".safetensors":
        return [header(path)]
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text(path).splitlines()]
    return [json.loads(text(path))]


EXAMPLES = [(name, body) for language in ("json", "jsonl") for name, body in blocks(EXAMPLE, language)]


@pytest.mark.parametrize(("name", "body"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_every_example_has_the_fields_of_the_real_file(name: str, body: str, made: Path) -> None:
    if name.startswith("tiny/"):
        path = Path(assets.ROOT) / name
        if not path.is_file():
            pytest.skip("the family is not installed")
    else:
        path = made / name
    told = [json.loads(line) for line in body.splitlines()] if path.suffix == ".jsonl" else [json.loads(body)]
    real = read(path)
    assert told
    for one, other in zip((told[0], told[-1]), (real[0], real[-1]), strict=True):
        same_shape(one, other, name)


def keys(value: Any) -> set[str]:
    """Every key of nested mappings and lists, except those under mappings by name."""
    if isinstance(value, list):
        return {key for entry in value for key in keys(entry)}
    if not isinstance(value, dict):
        return set()
    named = {"versions", "models", "embeddings", "prompts", "detectors"}
    return set(value) | {key for name, inner in value.items() if name not in named for key in keys(inner)}


def test_every_field_of_the_summary_is_explained(made: Path) -> None:
    page = text(EXAMPLE)
    start = page.index("### summary.json")
    told = set(re.findall(r"`(\w+)`", page[start : page.index("\n### ", start + 5)]))
    assert keys(json.loads(text(made / "demo" / "summary.json"))) - {"attack", "benign"} <= told


@pytest.mark.parametrize("page", [*PAGES, ROOT / "ine_jax/assets/tiny/CARD.md"], ids=lambda page: page.name)
def test_every_bold_text_ends(page: Path) -> None:
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text(page)))
    for paragraph in prose.split("\n\n"):
        assert paragraph.count("**") % 2 == 0, paragraph


SAID_ONCE = {  # a claim that is true under a condition -> the section that states it exactly
    "performance.md#what-a-negative-costs": r"costs?\s+(the\s+same|nothing|what\s+words)",
    "scale.md#what-changes-an-image": r"same\s+bits|bit-identical|change[sd]?\s+(no|any)\s+pixel|only\s+by\s+rounding",
}


@pytest.mark.parametrize(("place", "claim"), SAID_ONCE.items(), ids=lambda value: value.partition("#")[0])
def test_a_claim_with_a_condition_is_stated_in_one_place_and_linked_elsewhere(place: str, claim: str) -> None:
    name, _, _ = place.partition("#")
    found = [(page.name, part) for page in PAGES for part in text(page).split("\n\n") if re.search(claim, part)]
    assert len([part for _, part in found if place in part]) >= 1
    for page, part in found:
        assert page == name or place in part, f"{page}: {part}"
    for path in (ROOT / "ine_jax").rglob("*.py"):
        assert "do not depend on it" not in text(path) and "Batch size, device count" not in text(path), path


def test_the_examples_say_how_they_were_made() -> None:
    assert "tests/support/format_examples.py" in text(EXAMPLE)
    assert len(EXAMPLES) >= 15


@pytest.mark.thorough
def test_the_ten_lines_of_the_readme_run_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (_, code), _ = blocks(ROOT / "README.md", "python")
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102  our own text
    plain, guarded = names["plain"], names["guarded"]
    assert plain.arrays.shape == guarded.arrays.shape == (4, 64, 64, 3) and plain.arrays.dtype == np.uint8
    assert (plain.arrays != guarded.arrays).any()
    assert len(list((tmp_path / "stilettos").glob("*.png"))) == 4
