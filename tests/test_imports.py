"""The shape of the package: floors of imports, sizes of files and functions, annotations, what importing costs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ine_jax"

# A module imports lower floors, or its own without a cycle. The longest matching prefix decides.
FLOORS = {
    "ine_jax": 0,
    "ine_jax.errors": 0,
    "ine_jax.types": 0,
    "ine_jax.checks": 0,
    "ine_jax.provenance": 0,
    "ine_jax.cache": 0,
    "ine_jax.assets": 0,
    "ine_jax.storage": 0,
    "ine_jax.stopping": 0,
    "ine_jax.shards": 1,
    "ine_jax.config": 1,
    "ine_jax.configfile": 1,
    "ine_jax.progress": 1,
    "ine_jax.imagefolder": 1,
    "ine_jax.models": 1,
    "ine_jax.pickles": 1,
    "ine_jax.schedule": 1,
    "ine_jax.embedding": 1,
    "ine_jax.noise": 1,
    "ine_jax.torch_noise": 1,
    "ine_jax.latents": 1,
    "ine_jax.prompts": 1,
    "ine_jax.checkpoint": 1,
    "ine_jax.trainlog": 1,
    "ine_jax.text": 2,
    "ine_jax.negatives": 2,
    "ine_jax.guidance": 2,
    "ine_jax.convert": 2,
    "ine_jax.vocabulary": 2,
    "ine_jax.loop": 2,
    "ine_jax.sampling": 3,
    "ine_jax.programs": 4,
    "ine_jax.pipeline": 4,
    "ine_jax.conditioning": 4,
    "ine_jax.guards": 4,
    "ine_jax.inversion": 4,
    "ine_jax.unlearn": 4,
    "ine_jax.detectors": 4,
    "ine_jax.metrics": 4,
    "ine_jax.benchmarks": 4,
    "ine_jax.runs": 4,
    "ine_jax.verify": 5,
    "ine_jax.evaluate": 5,
    "ine_jax.report": 5,
    "ine_jax.generate": 5,
    "ine_jax.bench": 5,
    "ine_jax.bench_guards": 5,
    "ine_jax.inspect": 5,
    "ine_jax.describing": 5,
    "ine_jax.build": 6,
    "ine_jax.judging": 6,
    "ine_jax.commands": 6,
    "ine_jax.dryrun": 6,
    "ine_jax.demo": 6,
    "ine_jax.arguments": 7,
    "ine_jax.cli": 7,
}

# Beyond the floors: who must never see whom, at any distance of one import.
NEVER = [
    ("ine_jax.guidance", ("ine_jax.models", "ine_jax.pipeline", "ine_jax.config")),
    ("ine_jax.convert", ("ine_jax.models",)),
    ("ine_jax.sampling", ("ine_jax.guidance.cfg", "ine_jax.guidance.negative", "ine_jax.models")),
    ("ine_jax.detectors", ("ine_jax.pipeline",)),
    ("ine_jax.metrics", ("ine_jax.pipeline",)),
    *((f"ine_jax.metrics.{name}", ("jax", "flax")) for name in ("base", "fid", "paired", "rates")),  # the report reads
    ("ine_jax.benchmarks", ("ine_jax.pipeline", "jax")),
    ("ine_jax.runs", ("ine_jax.pipeline", "jax")),
    ("ine_jax.report", ("ine_jax.pipeline", "ine_jax.models", "jax")),
    ("ine_jax.config", ("jax", "numpy")),
]

FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def floor(module: str) -> int:
    found = [prefix for prefix in FLOORS if within(module, prefix) and (prefix != "ine_jax" or module == prefix)]
    assert found, f"{module} has no floor: add it to FLOORS in {Path(__file__).name}"
    return FLOORS[max(found, key=len)]


def type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if not type_checking(child):
            yield child
            yield from statements(child)


def imported(path: Path) -> set[str]:
    """Modules that `path` imports anywhere, also inside functions; names for type checkers only do not count."""
    known = {module_name(file) for file in FILES}
    found: set[str] = set()
    for node in statements(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            inner = {f"{module}.{alias.name}" for alias in node.names} & known
            found |= inner or {module}
    return found


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_only_lower_floors(path: Path) -> None:
    module = module_name(path)
    if module == "ine_jax":
        return  # the facade names its modules as text and loads them on first use
    for name in imported(path):
        if within(name, "ine_jax") and name != "ine_jax":
            assert floor(name) <= floor(module), f"{module} (F{floor(module)}) imports {name} (F{floor(name)})"


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


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_and_functions_are_short(path: Path) -> None:
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= (400 if path.name == "unet.py" else 300), f"{lines} lines"
    for function in functions(path):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        text = ast.get_docstring(function, clean=False) or ""
        length -= len(text.splitlines())  # what is explained is not what is complicated
        assert length <= 60, f"{function.name}: {length} lines"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_every_function_is_annotated(path: Path) -> None:
    for function in functions(path):
        everything = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
        bare = [a.arg for a in everything if a.annotation is None and a.arg not in ("self", "cls")]
        assert not bare, f"{function.name} (line {function.lineno}): {bare}"
        assert function.returns is not None, f"{function.name} (line {function.lineno}) has no return annotation"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_only_the_command_line_prints_to_standard_output(path: Path) -> None:
    if path.name == "cli.py":
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            assert any(keyword.arg == "file" for keyword in node.keywords), f"line {node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_nothing_here_can_run_code_from_data(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not names & {"pickle", "dill", "cloudpickle", "marshal", "shelve"}, f"line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec"), f"line {node.lineno}"
        if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "shell", "trust_remote_code"):
            assert isinstance(node.value, ast.Constant) and node.value.value is False, f"line {node.value.lineno}"


@pytest.mark.parametrize(
    "module",
    ["ine_jax", "ine_jax.cli", "ine_jax.config", "ine_jax.configfile", "ine_jax.report", "ine_jax.metrics.fid"],
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
