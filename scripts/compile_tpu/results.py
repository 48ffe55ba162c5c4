"""What a compiled program needs, stored as JSON, and the table of it: on the terminal and in `docs/tpu.md` alike."""

import dataclasses
import json
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ine_jax.storage.atomic import write_atomic
from scripts.compile_tpu.chips import chip_of, topology_mesh, version
from scripts.compile_tpu.programs import ATTENTION, PROGRAMS

COLLECTIVE = re.compile(
    r"\b(all-gather|all-reduce|all-to-all|collective-permute|collective-broadcast|reduce-scatter)(?:-start)?\("
)
MARKS = re.compile(r"(<!-- table: tpu -->\n).*?(<!-- end -->)", re.DOTALL)
HEAD = (
    "| program | devices | rows per device | HBM needed / available, GB | TFLOP | GB accessed | ms at peak FLOP/s "
    "| ms at peak bytes/s | share of peak | collectives | compile, CPU min |"
)


@dataclass(frozen=True)
class Case:
    """A program for a topology; `rows` of the network, images or prompts per device."""

    program: str
    topology: str
    rows: int


@dataclass(frozen=True)
class Result:
    """What the compiler says of a case, per device; `error` is its first line where it fails."""

    case: Case
    versions: str
    cores: int
    cpu_seconds: float
    seconds: float
    memory: int = 0
    flops: float = 0.0
    accessed: float = 0.0
    collectives: dict[str, int] = dataclasses.field(default_factory=dict)
    error: str = ""

    @property
    def times(self) -> tuple[float, float]:
        """Seconds of the arithmetic and of the memory traffic at the chip's peak rates."""
        chip = chip_of(self.case.topology)
        return self.flops / chip.flops, self.accessed / chip.bandwidth


PLAN = (
    *(Case("sampler step", topology, rows) for topology in ("v5e:1x1", "v6e:1x1") for rows in (8, 16, 32)),
    Case("sampler step", "v4:1x1x1", 16),
    *(Case("sampler step", topology, 16) for topology in ("v5e:2x2", "v5e:4x4", "v5e:16x16")),
    Case("sampler loop", "v5e:1x1", 16),
    Case("decoder", "v5e:1x1", 8),
    Case("decoder", "v6e:1x1", 8),
    Case("text encoder", "v5e:1x1", 16),
    Case("text encoder", "v6e:1x1", 16),
    Case("inversion step", "v5e:1x1", 4),
    Case("inversion step", "v5e:16x16", 4),
    *(Case(name, "v5e:1x1", 8) for name in ATTENTION),
)


def compiled(case: Case) -> Result:
    """Compile a case on this machine."""
    wall, cpu = time.perf_counter(), time.process_time()

    def result(**found: object) -> Result:
        spent = {"cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - wall}
        return Result(case, version(), os.cpu_count() or 1, **spent, **found)  # type: ignore[arg-type]

    try:
        program = PROGRAMS[case.program](topology_mesh(case.topology), case.rows).compile()
    except RuntimeError as error:  # the compiler's: the program does not fit
        return result(error=str(error).splitlines()[0][:200])
    memory, cost = program.memory_analysis(), program.cost_analysis()
    assert memory is not None and cost is not None  # noqa: S101  TPU programs have both
    live = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return result(
        memory=live - memory.alias_size_in_bytes,
        flops=float(cost["flops"]),
        accessed=float(cost["bytes accessed"]),
        collectives=dict(Counter(COLLECTIVE.findall(program.as_text() or ""))),
    )


def read(path: Path) -> list[Result]:
    """Return the stored results, none where there is no file."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return [Result(**{**row, "case": Case(**row["case"])}) for row in rows]


def store(path: Path, result: Result) -> None:
    """Add a result to the file, in place of an earlier one of its case."""
    kept = [each for each in read(path) if each.case != result.case]
    rows = [dataclasses.asdict(each) for each in (*kept, result)]
    write_atomic(path, (json.dumps(rows, indent=1) + "\n").encode())


def line(case: Case, result: Result | None) -> str:
    """Return a case's line of the table."""
    cells = [case.program, case.topology, str(case.rows)]
    if result is None or result.error:
        return f"| {' | '.join([*cells, *['not run' if result is None else result.error], *[''] * 7])} |"
    arithmetic, traffic = result.times
    cells += [f"{result.memory / 1e9:.2f} / {chip_of(case.topology).memory / 1e9:.0f}"]
    cells += [f"{result.flops / 1e12:.2f}", f"{result.accessed / 1e9:.1f}"]
    cells += [f"{1e3 * arithmetic:.1f}", f"{1e3 * traffic:.1f}", f"{arithmetic / max(arithmetic, traffic):.0%}"]
    cells += [", ".join(f"{n} {name}" for name, n in sorted(result.collectives.items())) or "none"]
    return f"| {' | '.join([*cells, f'{result.cpu_seconds / 60:.1f}'])} |"


def table(results: Sequence[Result]) -> str:
    """Return the table as Markdown: the plan's cases, then others."""
    known = {result.case: result for result in results}
    cases = [*PLAN, *(case for case in known if case not in PLAN)]
    rule = "|---|---|" + "---:|" * 7 + "---|---:|"
    return "\n".join([HEAD, rule, *(line(case, known.get(case)) for case in cases)]) + "\n"


def insert(page: Path, results: Sequence[Result]) -> None:
    """Put the table into a page, between its marks."""
    text = page.read_text(encoding="utf-8")
    if not MARKS.search(text):
        raise SystemExit(f"{page} has no place for the table: <!-- table: tpu --> and <!-- end -->")
    versions = "; ".join(sorted({f"{each.versions}, {each.cores} CPU cores" for each in results}))
    body = f"{table(results)}\nCompiled with {versions}.\n"
    write_atomic(page, MARKS.sub(lambda found: found[1] + body + found[2], text).encode())
