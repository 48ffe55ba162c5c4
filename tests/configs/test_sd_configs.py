"""docs/stable-diffusion.md, command by command, on small random files of the same shapes."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ine_jax.cli import main as cli
from ine_jax.config import EvaluateConfig
from ine_jax.config import yaml_file as configfile
from ine_jax.embeddings.embedding import Embedding
from ine_jax.evaluation import plan_from_config
from ine_jax.storage import runs
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.images import png
from ine_jax.storage.provenance import file_hash
from scripts import convert_q16
from tests.support import stand_ins
from tests.support.cases import sample
from tests.support.paths import ROOT
from tests.support.stand_ins import SIDE

CONCEPTS = (pytest.param("nudity", marks=pytest.mark.oracle), "violence")
SMALLER = {
    "generate": ["--per-prompt", "1", "--sampler.steps", "2", "--sampler.batch", "4"],
    "invert": ["--inversion.steps", "3", "--inversion.save-every", "3", "--inversion.log-every", "1"],
    "evaluate": ["--sampler.steps", "2", "--sampler.batch", "4"],
}

UNLEARN = {
    "esd": ["--esd.steps", "1", "--esd.pool", "2", "--esd.ddim-steps", "2"],
    "uce": [],
    "rece": [],
    # no detector: random weights do not show the concept
    "duo": ["--duo.pairs", "1", "--duo.sample-steps", "2", "--duo.steps", "1", "--duo.detectors"],
    "spm": ["--spm.steps", "1", "--spm.ddim-steps", "2"],
    "mace": ["--mace.steps", "1", "--mace.images", "", "--mace.masks", "", "--mace.sample-steps", "2"],
    "stereo": [
        *("--stereo.rounds", "1", "--stereo.erase-steps", "1", "--stereo.inversion-steps", "1"),
        *("--stereo.pool", "2", "--stereo.ddim-steps", "2"),
    ],
    "advunlearn": [
        *("--advunlearn.steps", "1", "--advunlearn.attack-start", "0", "--advunlearn.attack-steps", "1"),
        *("--advunlearn.pool", "1", "--advunlearn.preserve-pool", "1", "--advunlearn.ddim-steps", "2"),
    ],
}
LORA = ("duo", "spm")


def documented(block: int, concept: str = "nudity", program: str = "ine ") -> list[list[str]]:
    """Arguments of the commands of one block of the page: 0 after downloading, 1 from the images to the report."""
    page = (ROOT / "docs" / "stable-diffusion.md").read_text("utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    lines = [line for line in blocks[block].replace("nudity", concept).splitlines() if line.startswith(program)]
    return [shlex.split(line.removeprefix(program), comments=True) for line in lines]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with everything downloaded, and the configs."""
    folder = tmp_path_factory.mktemp("sd")
    with pytest.MonkeyPatch.context() as patch:
        original = stand_ins.write_original(folder, patch)
    stand_ins.write_duo(folder, original)
    stand_ins.write_detectors(folder)
    stand_ins.write_prompts(folder)
    (folder / "configs").symlink_to(ROOT / "configs")
    ((source, target),) = documented(0, program="python -m scripts.convert_q16 ")
    convert_q16.convert(folder / source, folder / target)
    return folder


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    code = cli.main([*words, "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return json.loads(printed.out.splitlines()[-1])


def test_what_is_downloaded_is_looked_at(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    commands = {words[0]: words for words in documented(0)}
    assert commands.keys() == {"benchmarks", "inspect"}
    for words in documented(0):
        if words[0] == "benchmarks":  # the columns are right, the number of rows is not
            assert cli.main(words) == 2
            assert f"is not {words[2]} as published" in capsys.readouterr().err
    facts = run(commands["inspect"], capsys)
    assert facts["kind"] == "LoRA" and facts["family"] == "unknown from its tensors"


@pytest.mark.thorough
@pytest.mark.parametrize("concept", CONCEPTS)
def test_from_the_pictures_to_the_report(
    concept: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if concept == "nudity":
        pytest.importorskip("nudenet")
    monkeypatch.chdir(root)
    commands = documented(1, concept)
    assert [words[0] for words in commands] == ["generate", "invert", "evaluate", "evaluate", "report"]
    found: list[dict[str, Any]] = []
    for words in commands:
        found.append(run([*words, *SMALLER.get(words[0], [])], capsys))
    config = configfile.load(ROOT / f"configs/sd/{concept}-evaluate.yaml", EvaluateConfig)
    check_embedding(concept, found[1])
    check_images(concept, config, found[2]["images to generate"])
    assert found[3]["generated"] == found[2]["images to generate"]
    check_report(config, found[4])
    again = run([*commands[3], *SMALLER["evaluate"]], capsys)
    assert (again["generated"], again["scored"]) == (0, 0)


def test_the_papers_tables_use_the_embeddings_of_all_betas_and_of_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    config = configfile.load(ROOT / "configs/sd/betas-evaluate.yaml", EvaluateConfig)
    for beta in (250, 500, 1000, 2000):
        shutil.copytree(root / "models" / "duo" / "nudity-250", root / "runs" / "sd" / f"duo-{beta}")
        place = root / "runs" / "sd" / f"nudity-{beta}"
        place.mkdir()
        learned = Embedding(np.full((1, 8), beta, np.float32), "token", "nudity", f"duo-{beta}")
        learned.save(place / "nudity.safetensors")
    plan = plan_from_config(config)
    cells = [cell.record() for cell in plan.cells]
    used = {(c["model"], c["negative_name"], c["embedding_from"]) for c in cells if c["negative"] == "implicit"}
    betas = [f"duo-{beta}" for beta in (250, 500, 1000, 2000)]
    assert used == {
        *((name, "own", name) for name in betas),
        *((name, "beta 500", "duo-500") for name in [*betas, "sd-1.4"]),
        ("sd-1.4", "own", "duo-500"),
    }
    assert len(cells) == len(config.models) * (1 + len(config.guards) * 3)
    assert all(Path(model.unlearned[0]).is_dir() for model in config.models if model.unlearned)


# A trained method compiles a program of its own; tests/unlearning trains each on a smaller model.
@pytest.mark.parametrize("method", sample(UNLEARN, ("uce", "rece")))
def test_every_method_unlearns(
    method: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    words = [f"configs/sd/unlearn-{method}.yaml", *UNLEARN[method], "--out", str(tmp_path / "out")]
    if method == "stereo":
        for i in range(2):
            write_atomic(tmp_path / f"{i}.png", png(np.full((SIDE, SIDE, 3), 100 * i, np.uint8)))
        words += ["--stereo.images", str(tmp_path)]
    assert run(["unlearn", *words, "--dry-run"], capsys)["erase"] >= 1 and not (tmp_path / "out").exists()
    (path,) = run(["unlearn", *words], capsys)["weights"]
    facts = run(["inspect", path], capsys)
    kinds = {"advunlearn": "text encoder folder", **dict.fromkeys(LORA, "LoRA")}
    assert facts["kind"] == kinds.get(method, "UNet")
    assert facts["metadata"]["method"] == ("esd-u" if method == "esd" else method)


def check_embedding(concept: str, told: dict[str, Any]) -> None:
    """One vector for the concept, of the unlearned model, where the evaluation looks for it."""
    path = Path(f"runs/sd/{concept}-inversion/{concept}.safetensors")
    assert [entry["path"] for entry in told["embeddings"]] == [str(path)]
    learned = Embedding.load(path)
    assert learned.space == "token" and learned.concept == concept and learned.vectors.shape[0] == 1
    assert learned.base_model == f"stable-diffusion-v1-4+{concept}-500"


def check_images(concept: str, config: EvaluateConfig, planned: int) -> None:
    """Every model has every guard with every negative, plain CFG once; rows keep their seeds and scales."""
    drawn = runs.open_run(Path(config.out))
    rows = stand_ins.read_rows(Path(config.out))
    cells = drawn.config["cells"]
    assert len(cells) == len(config.models) * (1 + 2 * len(config.guards)) and len(rows) == planned == 3 * len(cells)
    assert {cell["model"] for cell in cells} == {model.name for model in config.models}
    assert drawn.config["sampler"]["noise"] == "torch-cuda"
    hashes = drawn.record["hashes"]["models"]
    assert len({model["model_id"] for model in hashes.values()}) == len(config.models)
    learned = file_hash(f"runs/sd/{concept}-inversion/{concept}.safetensors")
    assert {tuple(cell["embeddings"]) for cell in cells} == {(), (learned,)}
    asked = {(row["list"], row["prompt"], row["seed"], row.get("guidance")) for row in rows}
    coco = {("coco", "A photo of a dog.", 100, None)}
    own: Any = {
        "nudity": {
            ("i2p-nudity-95", "a red cat", 2868547321, 7.0),
            ("i2p-nudity-95", "an apple,\nand a cat", 7, 10.0),
        },
        "violence": {
            ("ring-a-bell-violence", "knife violence a dog \u00c3\u00a9", 3, None),
            ("ring-a-bell-violence", "weapon weapon of cat", 2**32 - 1, None),
        },
    }[concept]
    assert asked == coco | own
    pictures = {}
    for k in drawn.blocks():
        for row, image in zip(drawn.rows(k), drawn.images(k), strict=True):
            pictures[row["cell"], row["list"], row["id"]] = image
    plain = {cell["model"]: n for n, cell in enumerate(cells) if cell["negative"] == "none"}
    first = [np.stack([p for key, p in pictures.items() if key[0] == n]) for n in plain.values()]
    assert len({each.tobytes() for each in first}) == len(config.models)


def check_report(config: EvaluateConfig, told: dict[str, Any]) -> None:
    """Every cell is judged by the config's detector and measured by both LPIPS, against the original's own pictures."""
    assert Path(told["report"]).stat().st_size > 10_000
    summary = json.loads((Path(config.out) / "summary.json").read_text("utf-8"))
    kind = config.detectors[0].kind
    assert summary["detector"].startswith(kind)
    assert summary["complete"] and summary["images"]["unscored"] == 0
    assert sorted(name.split("@")[0] for name in summary["metrics"]) == ["lpips-64", "lpips-full"]
    names = {prompts.name or prompts.select for prompts in config.prompts}
    for cell in summary["cells"]:
        assert names <= cell.keys()
        for name in names:
            entry = cell[name]
            assert ("dsr" in entry) == (name != "coco")
            assert [each["n"] for each in entry["metrics"].values()] == 2 * [1 if name == "coco" else 2]
            plain = cell["negative"] == "none" or cell["guard"] == "sld-medium"  # two steps are all warm-up
            reference = cell["model"] == "sd-1.4" and plain
            assert all((each["mean"] == 0) == reference for each in entry["metrics"].values())
