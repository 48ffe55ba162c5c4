"""scripts/compile_tpu: the table is a function of the stored results, and the TPU's compiler takes the programs."""

from pathlib import Path

import jax
import pytest

from ine_jax.models.clip import ClipTextConfig
from ine_jax.models.unet import UNetConfig
from ine_jax.pipeline.mesh import device_mesh
from scripts.compile_tpu import programs, results
from scripts.compile_tpu.results import Case, Result
from tests.support.cases import sample
from tests.support.paths import ROOT

FIRST = results.PLAN[0]


def result(case: Case, **values: object) -> Result:
    fixed = {"versions": "jax 0, libtpu 0", "cores": 2, "cpu_seconds": 90.0, "seconds": 100.0}
    return Result(case, **{**fixed, **values})  # type: ignore[arg-type]


def cells(table: str, case: Case) -> list[str]:
    start = f"| {case.program} | {case.topology} | {case.rows} |"
    (found,) = [line for line in table.splitlines() if line.startswith(start)]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_the_table_divides_by_the_peak_rates_and_names_what_was_not_run() -> None:
    done = result(FIRST, memory=8e9, flops=197e12 / 100, accessed=819e9 / 50, collectives={"all-reduce": 1})
    table = results.table([done])
    assert cells(table, FIRST)[3:] == [
        "8.00 / 16", "1.97", "16.4", "10.0", "20.0", "50%", "1 all-reduce", "1.5"
    ]  # fmt: skip
    assert {cells(table, case)[3] for case in results.PLAN[1:]} == {"not run"}
    widths = {line.count("|") for line in table.splitlines()}
    assert len(widths) == 1


def test_a_case_that_fails_keeps_its_reason() -> None:
    table = results.table([result(FIRST, error="RESOURCE_EXHAUSTED: 20 GB of 16 GB")])
    assert cells(table, FIRST)[3] == "RESOURCE_EXHAUSTED: 20 GB of 16 GB"


def test_results_are_stored_once_per_case(tmp_path: Path) -> None:
    path = tmp_path / "tpu.json"
    assert results.read(path) == []
    for seconds in (1.0, 2.0):
        results.store(path, result(FIRST, seconds=seconds))
    results.store(path, result(results.PLAN[1]))
    assert [(each.case, each.seconds) for each in results.read(path)] == [(FIRST, 2.0), (results.PLAN[1], 100.0)]


def test_the_page_holds_the_table_of_the_stored_results() -> None:
    assert results.table(results.read(ROOT / "benchmarks" / "tpu.json")) in (ROOT / "docs" / "tpu.md").read_text(
        "utf-8"
    )


SMALL = UNetConfig(
    block_out_channels=(320,),
    layers_per_block=1,
    down_block_types=("CrossAttnDownBlock2D",),
    up_block_types=("CrossAttnUpBlock2D",),
)


@pytest.mark.parametrize("program", sample(["sampler step", "inversion step"], ("sampler step",)))
def test_a_program_is_lowered_from_shapes(program: str, monkeypatch: pytest.MonkeyPatch, fake_types: None) -> None:
    """For this machine's CPU: what the compiler of TPUs is given fits the package's functions."""
    monkeypatch.setattr(programs, "UNET", SMALL)
    monkeypatch.setattr(programs, "TEXT", ClipTextConfig(num_hidden_layers=1))
    with jax.numpy_dtype_promotion("standard"):  # gradients of JAX's attention mix 16 and 32 bits
        lowered = programs.PROGRAMS[program](device_mesh(jax.devices()[:1]), 2)
    assert "func.func public @main" in lowered.as_text()


@pytest.mark.slow
@pytest.mark.parametrize("program", ["sampler step", "text encoder", "4096 × 8 × 40, flash"])
def test_the_compiler_takes_a_program_for_four_chips(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sampler has one level here, that of 4,096 tokens."""
    pytest.importorskip("libtpu")
    from ine_jax.pipeline.tpu import enlarge_stacks

    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    enlarge_stacks()
    monkeypatch.setattr(programs, "UNET", SMALL)
    found = results.compiled(Case(program, "v5e:2x2", 2))
    assert found.error == ""
    assert found.collectives == {}
    assert 0 < found.memory < 16e9
    assert found.flops > 1e9
    assert found.accessed > 1e6
