"""The demo end to end on a random family of the bundled layout: its images, its output, and that it resumes."""

import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from ine_jax import assets
from ine_jax.cli import demo, demo_settings
from ine_jax.cli import main as cli
from ine_jax.cli.artifacts import verified
from ine_jax.config import DemoConfig, SamplerConfig
from ine_jax.errors import CorruptRunError, InputError
from ine_jax.evaluation.detectors.world import WorldConfig, WorldDetector, WorldNet
from ine_jax.storage.weight_files import Weights
from scripts.train_world.manifest import write_manifest
from tests.support.flips import flip
from tests.support.tiny_pipeline import SIDE

LABELS = ("knife", "cat", "dog")
SETTINGS = {
    "guidance_scale": 3.0,
    "negative_scale": 4.0,
    "scheduler": "ddim",
    "steps": 2,
    "explicit_negative": ["knife", "weapon"],
    "implicit_template": "a photo of a {}",
    "sweep": [6.0],
    "inversion": {"concept": "weapon", "steps": 3, "batch": 2, "learning_rate": 0.02, "log_every": 1, "save_every": 2},
}


def write_family(root: Path, pipeline: Path) -> None:
    """A random model, its `unlearned` variants, a random detector, prompts and concept images, laid out as bundled."""
    tiny = root / "tiny"
    shutil.copytree(pipeline, tiny)
    (tiny / "unlearned").mkdir()
    weights = Weights((tiny / "unet" / "diffusion_pytorch_model.safetensors",))
    keys = {name: value * 0.5 for name, value in weights.items() if "attn2.to_k" in name}
    for seed in (0, 1):
        save_file(
            {name: value * (seed + 1) for name, value in keys.items()}, tiny / "unlearned" / f"{seed}.safetensors"
        )
    net = WorldNet(len(LABELS), (8, 8))
    params = net.init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))["params"]
    WorldDetector(WorldConfig(LABELS, (8, 8), SIDE, {"weapon": ("knife",)}), params).save(tiny / "detector")
    (tiny / "prompts").mkdir()
    for name in ("attack", "benign", "explicit", "generic", "list"):
        rows = [{"id": f"{name}-{i}", "prompt": "a photo of a cat", "objects": ["cat"], "seed": i} for i in range(4)]
        (tiny / "prompts" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tiny / "concept").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(tiny / "concept" / f"{i}.png")
    (tiny / "world.json").write_text(json.dumps({"objects": {}, "settings": SETTINGS}))


@pytest.fixture
def family(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_family(tmp_path / "assets", tiny_folder)
    write_manifest(tmp_path / "assets")
    monkeypatch.setattr(assets, "ROOT", tmp_path / "assets")
    return tmp_path


@pytest.mark.thorough
def test_demo(family: Path) -> None:
    sampler = SamplerConfig("ddim", steps=2, batch=4)  # 50 rows padded from 3 items would be minutes
    config = DemoConfig(out=str(family / "out"), items=3, sampler=sampler)
    outcome = demo.run(config, ["ine", "demo"])
    summary = json.loads((family / "out" / "summary.json").read_text())
    record = json.loads((family / "out" / "evaluation" / "run.json").read_text())
    assert record["config"]["detector"] == summary["detector"]
    kinds = [(cell["model"], cell["negative"]) for cell in summary["cells"]]
    assert kinds == [(m, n) for m in ("tiny", "tiny-unlearned-0") for n in ("none", "explicit", "implicit")]
    for cell in summary["cells"]:
        assert set(cell["attack"]) >= {"k", "n", "dsr", "low", "high"}
        assert set(cell["benign"]) >= {"k", "n", "rate", "low", "high"}
        assert cell["attack"]["n"] + cell["attack"]["unscored"] == 3
        assert "seconds_per_image" not in cell  # a summary has the same bytes wherever it was made
    swap = [(cell["embedding_from"], cell["model"]) for cell in summary["controls"]]
    assert swap == [("tiny", "tiny"), ("tiny", "tiny-unlearned-0")]
    assert summary["commands"] == [["ine", "demo"]]
    assert summary["versions"]["jax"] == jax.__version__
    assert set(summary["hashes"]["embeddings"]) == {"tiny-unlearned-0, seed 0", "tiny, seed 0"}
    assert "tiny-unlearned-0-seed-0: loss over 3 steps" in (family / "out" / "report.html").read_text()
    assert any("explicit words" in line for line in outcome.lines)

    files = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (family / "out").rglob("*.*") if "blocks" in p.parts}
    assert demo.run(config, ["ine", "demo"]).lines == outcome.lines  # finished: nothing is drawn or inverted again
    assert files == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in files}
    with pytest.raises(InputError, match=r"lists\.attack"):
        demo.run(DemoConfig(out=config.out, items=2, sampler=sampler))
    assert not verified(family / "out").faults
    for name in ("log.jsonl", "done.json", "weapon.safetensors"):
        before = flip(family / "out" / "inversion" / "tiny-seed-0" / name)
        with pytest.raises(CorruptRunError, match=name):
            demo.run(config, ["ine", "demo"])
        (family / "out" / "inversion" / "tiny-seed-0" / name).write_bytes(before)


def test_full_plan_has_every_cell_that_the_table_needs(family: Path) -> None:
    settings = demo_settings.read_settings(demo_settings.read_world(), DemoConfig(full=True))
    assert (settings.guidance.negative_scale, settings.sampler.steps, settings.inversion.steps) == (4.0, 2, 3)
    changed = demo_settings.read_settings(
        demo_settings.read_world(), DemoConfig(sampler=SamplerConfig(steps=16, batch=7))
    )
    assert changed.sampler == SamplerConfig("ddim", steps=2, batch=7)  # only what was changed
    embedding = family / "e.safetensors"
    embedding.write_bytes(b"learned")
    models = ("tiny-unlearned-0", "tiny-unlearned-1", "tiny")
    found = [demo.Found(model, seed, embedding) for model in models for seed in (0, 1)]
    plan = demo.demo_plan(settings, found, None)
    cells = [
        (c.model, c.negative.kind, c.embedding_from, c.embedding_seed, c.guidance.negative_scale) for c in plan.cells
    ]
    assert len(set(cells)) == len(cells)
    for used in models:
        for source in ("tiny", used):
            for seed in (0, 1):
                assert (used, "implicit", source, seed, 4.0) in cells
        lists = dict(next(c for c in plan.cells if c.model == used and c.negative.kind == "none").lists)
        assert set(lists) == {"attack", "benign", "explicit", "generic", "list"}
    assert {scale for _, kind, *_, scale in cells if kind == "implicit"} == {4.0, 6.0}
    assert {scale for _, kind, *_, scale in cells if kind == "none"} == {None}
    assert {c.negative.words for c in plan.cells if c.negative.kind == "explicit"} == {("knife", "weapon")}
    assert {c.negative.template for c in plan.cells if c.negative.kind == "implicit"} == {"a photo of a {}"}


def test_the_familys_interval_is_that_of_every_guarded_cell(family: Path) -> None:
    world = demo_settings.read_world()
    world["settings"]["interval"] = [0.0, 0.6]
    settings = demo_settings.read_settings(world, DemoConfig(full=True))
    embedding = family / "e.safetensors"
    embedding.write_bytes(b"learned")
    plan = demo.demo_plan(settings, [demo.Found(m, 0, embedding) for m in ("tiny-unlearned-0", "tiny")], None)
    intervals = {(cell.negative.kind, cell.guidance.interval) for cell in plan.cells}
    assert intervals == {("none", (0.0, 1.0)), ("explicit", (0.0, 0.6)), ("implicit", (0.0, 0.6))}
    assert sum(u.stop - u.start for u in plan.units()) == sum(n for c in plan.cells for _, n in c.lists)


def test_help_of_the_full_demo_says_how_many_items(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["demo", "--help"])
    words = " ".join(re.sub(r"[^\w.=]+", " ", capsys.readouterr().out).split())
    assert f"{demo.FULL_ITEMS} items of every prompt set all items on the unguarded base" in words


def test_demo_without_its_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "ROOT", tmp_path / "none")
    with pytest.raises(CorruptRunError, match="install the package again"):
        demo.run(DemoConfig(out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
