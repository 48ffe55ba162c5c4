"""Models of an evaluation with published checkpoints on top: what is loaded, hashed, recorded, refused."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ine_jax.cli import main as cli
from ine_jax.config import EvaluateConfig, ModelConfig, NegativeConfig, PromptsConfig, SamplerConfig
from ine_jax.errors import InputError
from ine_jax.evaluation import evaluate, plan_from_config
from ine_jax.evaluation.generating import model_record
from ine_jax.storage import provenance
from tests.support import fakes, layouts
from tests.support.base_model import base  # noqa: F401  fixtures
from tests.support.layouts import Base

# of the bundled family before checkpoints could be named: finished directories of then must stay valid
RECORD = "d7c1e09d0eecf4c6902af528148ba54adb17275b1f7b223774f6312834eb0860"
IDENTITIES = (
    "ac585d38b14c",
    "891353b8135c",
    "49bc18a97099",
    "62ab3ac00bc2",
    "225da4fbabd8",
    "52e0760ea309",
    "3a4fba8f972f",
    "5659efff05dc",
)


def config(*models: ModelConfig, **more: Any) -> EvaluateConfig:
    sampler = SamplerConfig(scheduler="dpm++", steps=2, batch=2)
    return EvaluateConfig(models=models, prompts=(PromptsConfig("attack"),), limit=2, sampler=sampler, **more)


def test_bundled_models_are_recorded_as_ever(tmp_path: Path) -> None:
    models = (ModelConfig("tiny"), ModelConfig("tiny-unlearned-0"))
    plan = plan_from_config(config(*models, negatives=(NegativeConfig(), NegativeConfig(words="knife"))))
    record = plan.record()
    assert provenance.value_hash(record) == RECORD
    run = evaluate(plan, tmp_path, generate=fakes.generate, hashes=fakes.hashes)
    assert tuple(row["identity"][:12] for k in run.blocks() for row in run.rows(k)) == IDENTITIES
    assert model_record(models[1]) != model_record(models[0])


def test_the_record_depends_on_contents_and_multipliers(base: Base, tmp_path: Path) -> None:
    path, _ = layouts.duo_fourfold(base, tmp_path)
    model = ModelConfig(str(base.folder), unlearned=(str(path),), name="duo")
    found = model_record(model)
    assert found != model_record(ModelConfig(str(base.folder)))
    moved = shutil.copytree(path, tmp_path / "elsewhere")
    assert model_record(dataclasses.replace(model, unlearned=(str(moved),), name="other")) == found
    assert model_record(dataclasses.replace(model, unlearned=(f"{path}:0.5",))) != found


@pytest.mark.thorough
def test_the_label_stands_for_base_and_checkpoint(base: Base, tmp_path: Path) -> None:
    import ine_jax

    path, _ = layouts.duo_single(base, tmp_path)
    models = (
        ModelConfig(str(base.folder), name="original"),
        ModelConfig(str(base.folder), unlearned=(str(path),), name="duo"),
    )
    plan = plan_from_config(config(*models))
    run = evaluate(plan, tmp_path / "run")
    items = plan.lists["attack"]
    generated = {}
    for k in run.blocks():
        generated[plan.cells[run.rows(k)[0]["cell"]].model] = np.stack(run.images(k))
    hashes = run.record["hashes"]["models"]
    for model in models:
        assert hashes[model.label] == model_record(model)
        pipe = ine_jax.load(model.model, unlearned=model.unlearned, scheduler="dpm++", batch_size=2)
        assert hashes[model.label] == {"model_id": pipe.model_id}
        expected = pipe(
            [item.prompt for item in items],
            guidance=ine_jax.Cfg(7.5),
            seeds=[item.seed for item in items],
            steps=2,
        ).arrays
        np.testing.assert_array_equal(generated[model.label], expected)
    assert len({images.tobytes() for images in generated.values()}) == 2
    assert len({row["identity"] for k in run.blocks() for row in run.rows(k)}) == 4
    other, _ = layouts.duo_peft(base, tmp_path / "other")
    changed = config(models[0], dataclasses.replace(models[1], unlearned=(str(other),)))
    with pytest.raises(InputError) as caught:
        evaluate(plan_from_config(changed), tmp_path / "run")
    assert "hashes.models.duo" in caught.value.given


def test_dry_run_opens_what_is_here(base: Base, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uce, _ = layouts.uce_partial(base, tmp_path)
    words = ["generate", "--model", str(base.folder), "--prompts", "a cat", "--dry-run", "--json", "--unlearned"]
    assert cli.main([*words, str(uce), "owner/name/file.safetensors"]) == 0
    reported = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert reported["from the hub"] == ["owner/name/file.safetensors"] and reported["images"] == 1
    for wrong, said in ((f"{uce}:0.5", "0.5 times"), (str(tmp_path / "none.pt"), "no such file"), (__file__, ".py")):
        assert cli.main([*words, wrong]) == 2
        error = capsys.readouterr().err
        assert said in error and len(error.splitlines()) <= 3
    lines = (
        f"models:\n  - {{model: {base.folder}, name: a, unlearned: [{uce}]}}\n  - {{model: {base.folder}, name: b}}\n"
    )
    (tmp_path / "c.yaml").write_text(f"{lines}prompts: [attack]\nlimit: 1\n")
    assert cli.main(["evaluate", str(tmp_path / "c.yaml"), "--dry-run"]) == 0
    (tmp_path / "c.yaml").write_text(f"{lines.replace(uce.name, 'none.pt')}prompts: [attack]\n")
    assert cli.main(["evaluate", str(tmp_path / "c.yaml"), "--dry-run"]) == 2
    assert cli.main(["invert", "--unlearned", str(tmp_path / "none.pt"), "--dry-run"]) == 2
    capsys.readouterr()
    (tmp_path / "c.yaml").write_text(f"{lines}prompts: [attack]\nmetrics: [{{weights: {tmp_path}/lpips}}]\n")
    assert cli.main(["evaluate", str(tmp_path / "c.yaml"), "--dry-run"]) == 2
    assert capsys.readouterr().err.startswith(f"{tmp_path}/lpips: no such folder or file")


@pytest.mark.parametrize(
    "command", ["invert", "generate", "bench", "bench guards", "bench inversion", "bench evaluation"]
)
def test_every_command_loads_the_checkpoints(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def loaded(name: str, **options: Any) -> Any:
        asked.append((name, options["revision"], options["unlearned"]))
        raise InputError("enough", "", "")

    monkeypatch.setattr("ine_jax.pipeline.from_config.load", loaded)
    words = ["--model", "owner/base", "--revision", "abc", "--unlearned", "a.pt", "b.pt:0.5"]
    extra = ["--prompts", "a cat"] if command == "generate" else []
    out = str(tmp_path / ("out.json" if command.startswith("bench") else "out"))
    assert cli.main([*command.split(), *words, *extra, "--out", out]) == 2
    assert "enough" in capsys.readouterr().err
    assert asked == [("owner/base", "abc", ("a.pt", "b.pt:0.5"))]
