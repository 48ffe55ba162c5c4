"""The shape of the package: floors of imports, sizes of files and functions, annotations, what importing costs."""

import ast
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "ine_jax"

# From top to bottom: a room imports itself and the rooms below it, never one above.
ROOMS = (
    "cli",
    "api",
    "reporting",
    "evaluation",
    "attacks",
    "unlearning",
    "inversion",
    "training",
    "pipeline",
    "guidance",
    "models",
    "embeddings",
    "prompts",
    "schedulers",
    "config",
    "storage",
    "assets",
    "progress",
    "types",
    "errors",
)
MAX_ENTRIES = 20
MAX_FLOORS = 10

# Beyond the order of the rooms: who must never see whom, at any distance of one import.
NEVER = [
    ("ine_jax.guidance", ("ine_jax.models", "ine_jax.pipeline")),
    ("ine_jax.pipeline.sampling", ("ine_jax.guidance.cfg", "ine_jax.guidance.negative", "ine_jax.models")),
    ("ine_jax.evaluation.detectors", ("ine_jax.pipeline",)),
    ("ine_jax.evaluation.metrics", ("ine_jax.pipeline",)),
    # the report reads these
    *((f"ine_jax.evaluation.metrics.{name}", ("jax", "flax")) for name in ("base", "fid", "paired", "rates")),
    ("ine_jax.prompts", ("jax",)),
    ("ine_jax.storage.runs", ("jax",)),
    ("ine_jax.reporting", ("ine_jax.pipeline", "ine_jax.models", "jax")),
    ("ine_jax.config", ("jax", "numpy")),
]

FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def room(module: str) -> str:
    return module.split(".")[1]


def type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if not type_checking(child):
            yield child
            yield from statements(child)


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@functools.cache
def imported(path: Path) -> set[str]:
    """Modules that `path` imports anywhere, also inside functions; names for type checkers only do not count."""
    known = {module_name(file) for file in FILES}
    found: set[str] = set()
    for node in statements(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            inner = {f"{module}.{alias.name}" for alias in node.names} & known
            found |= inner or {module}
    return found


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@functools.cache
def arrows() -> dict[str, set[str]]:
    """Room -> the other rooms that its modules import."""
    found: dict[str, set[str]] = {name: set() for name in ROOMS}
    for path in FILES:
        module = module_name(path)
        if module not in (
            "ine_jax",
            "ine_jax.__main__",
        ):  # the facade names its modules as text and loads them on first use
            inner = {name for name in imported(path) if within(name, "ine_jax") and name != "ine_jax"}
            found[room(module)] |= {room(name) for name in inner} - {room(module)}
    return found


def test_the_package_has_few_rooms() -> None:
    entries = {path.stem for path in PACKAGE.iterdir() if path.suffix in ("", ".py") and path.name[0] not in "._"}
    assert entries == set(ROOMS)
    assert len(entries) <= MAX_ENTRIES


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_imports_only_rooms_below_it(name: str) -> None:
    below = set(ROOMS[ROOMS.index(name) + 1 :])
    assert arrows()[name] <= below, sorted(arrows()[name] - below)


def test_the_rooms_stand_on_few_floors() -> None:
    graph = arrows()

    def floor(name: str) -> int:
        return 1 + max((floor(below) for below in graph[name]), default=0)

    assert max(map(floor, ROOMS)) <= MAX_FLOORS


@pytest.mark.parametrize(("module", "forbidden"), NEVER, ids=[module for module, _ in NEVER])
def test_never_imports(module: str, forbidden: tuple[str, ...]) -> None:
    for path in FILES:
        if within(module_name(path), module):
            wrong = {name for name in imported(path) for prefix in forbidden if within(name, prefix)}
            assert not wrong, f"{module_name(path)} imports {sorted(wrong)}"


def test_no_import_cycle() -> None:
    graph = {module_name(path): {n for n in imported(path) if within(n, "ine_jax.")} for path in FILES}
    graph = {
        module: {n for n in imported(path) if n in graph and n not in ("ine_jax", module)}
        for module, path in ((module_name(p), p) for p in FILES)
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for name in sorted(graph[module]):
                visit(name, (*trail, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def too_long(path: Path) -> Iterator[str]:
    lines = len(path.read_text("utf-8").splitlines())
    if lines > (400 if path.name == "unet.py" else 300):
        yield f"{lines} lines"
    for function in functions(path):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        text = ast.get_docstring(function, clean=False) or ""
        length -= len(text.splitlines())  # what is explained is not what is complicated
        if length > 60:
            yield f"{function.name}: {length} lines"


def not_annotated(path: Path) -> Iterator[str]:
    for function in functions(path):
        everything = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
        bare = [a.arg for a in everything if a.annotation is None and a.arg not in ("self", "cls")]
        if bare or function.returns is None:
            yield f"{function.name} (line {function.lineno}): {bare or 'what it returns'}"


def printing(path: Path) -> Iterator[str]:
    calls = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
    for call in calls if not path.is_relative_to(PACKAGE / "cli") else ():
        named = isinstance(call.func, ast.Name) and call.func.id == "print"
        if named and not any(keyword.arg == "file" for keyword in call.keywords):
            yield f"line {call.lineno}"


def running_data(path: Path) -> Iterator[str]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            if names & {"pickle", "dill", "cloudpickle", "marshal", "shelve"}:
                yield f"line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
            yield f"line {node.lineno}"
        if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "shell", "trust_remote_code"):
            off = isinstance(node.value, ast.Constant) and node.value.value is False
            yield from () if off else (f"line {node.value.lineno}",)


@pytest.mark.parametrize("rule", [too_long, not_annotated, printing, running_data], ids=lambda rule: rule.__name__)
def test_every_file_follows_the_rules(rule: Callable[[Path], Iterator[str]]) -> None:
    """Short files and functions, annotations, no output but the command line's, nothing that runs code from data."""
    assert [f"{module_name(path)}: {text}" for path in FILES for text in rule(path)] == []


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (too_long, "def f():\n" + "    pass\n" * 61),
        (too_long, "x = 1\n" * 301),
        (not_annotated, "def f(x) -> None: ..."),
        (not_annotated, "def f(x: int): ..."),
        (printing, "print(1)"),
        (running_data, "import pickle"),
        (running_data, "eval('1')"),
        (running_data, "np.load(path, allow_pickle=True)"),
    ],
)
def test_the_rules_find_what_they_are_for(rule: Callable[[Path], Iterator[str]], source: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(source)
    assert len(list(rule(tmp_path / "module.py"))) == 1


@pytest.mark.parametrize(
    "module",
    [
        "ine_jax",
        "ine_jax.cli",
        "ine_jax.config",
        "ine_jax.config.yaml_file",
        "ine_jax.reporting",
        "ine_jax.evaluation.metrics.fid",
    ],
)
def test_import_does_not_load_jax(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'jax', 'flax', 'torch', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_the_facade_knows_its_names() -> None:
    import ine_jax

    assert ine_jax.__version__.count(".") == 2
    assert set(ine_jax.__all__) <= set(dir(ine_jax))
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = ine_jax.nothing_like_this
    for name in ine_jax.__all__:
        assert getattr(ine_jax, name) is not None
