"""`ine convert-model`, `ine inspect` on checkpoints, `ine_jax.load(..., unlearned=...)`, and the tools' own readers."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from ine_jax.cli import main as cli
from ine_jax.cli.describe import describe
from ine_jax.models.checkpoints import names, pipeline_folder, recognize
from ine_jax.models.checkpoints.recognize import STEMS
from tests.support import layouts
from tests.support.base_model import base  # noqa: F401  fixtures
from tests.support.layouts import Base

Capture = pytest.CaptureFixture[str]


def convert(capsys: Capture, *words: object) -> dict:
    assert cli.main(["convert-model", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.thorough
def test_to_flax_and_back_is_the_same_bytes(base: Base, tmp_path: Path, capsys: Capture) -> None:
    path, new = layouts.uce_partial(base, tmp_path)
    plan = convert(capsys, base.folder, tmp_path / "a", "--unlearned", path, "--dtype", "float32", "--dry-run")
    assert plan["changes"] and not (tmp_path / "a").exists()
    told = convert(capsys, base.folder, tmp_path / "a", "--unlearned", path, "--dtype", "float32")
    assert told["changes"] == plan["changes"] and told["use"][0].startswith("diffusers: StableDiffusionPipeline")
    unet = safetensors.numpy.load_file(tmp_path / "a" / "unet" / f"{STEMS['unet']}.safetensors")
    assert unet.keys() == base.states["unet"].keys()
    for key, value in {**base.states["unet"], **new["unet"]}.items():
        np.testing.assert_array_equal(unet[key], value)
    convert(capsys, tmp_path / "a", tmp_path / "flax", "--to", "flax", "--dtype", "float32")
    convert(capsys, tmp_path / "flax", tmp_path / "b", "--dtype", "float32")
    for part, stem in STEMS.items():
        one, two = (tmp_path / name / part / f"{stem}.safetensors" for name in ("a", "b"))
        assert one.read_bytes() == two.read_bytes()
        assert not list((tmp_path / "flax" / part).glob("*.safetensors"))
    assert cli.main(["convert-model", str(base.folder), str(tmp_path / "a")]) == 2
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'a'} exists")


def test_what_inspect_says(base: Base, tmp_path: Path) -> None:
    path, _ = layouts.uce_partial(base, tmp_path / "uce")
    facts: Any = describe(path, str(base.folder))
    assert facts["kind"] == "UNet" and facts["unet"] == "8 tensors: attn2.to_k x 4, attn2.to_v x 4"
    assert facts["dtype"] == "float32" and list(facts["sha256"]) == [path.name]
    size = sum(base.states["unet"][key].size for key in layouts.ending(base.states["unet"], *layouts.KEY_VALUE))
    assert facts["holds"] == f"{size:,} parameters in 8 tensors"
    told = f"8 of {len(base.states['unet'])} tensors differ from {base.folder}: attn2.to_k x 4, attn2.to_v x 4"
    assert facts["changes"] == {"unet": told}
    whole, _ = layouts.uce_full(base, tmp_path / "full")
    assert describe(whole, str(base.folder))["changes"] == {"unet": told}  # equal tensors are no change
    duo, _ = layouts.duo_fourfold(base, tmp_path / "duo")
    facts = describe(duo)
    assert facts["kind"] == "4 x LoRA, added" and facts["unet"] == "16 modules of rank 4, scale 1"
    assert len(facts["sha256"]) == 4
    spm, _ = layouts.spm(base, tmp_path / "spm")
    facts = describe(spm)
    assert facts["kind"] == "LoRA" and facts["metadata"]["prompts"] == "nudity"
    text, _ = layouts.advunlearn(base, tmp_path / "text")
    facts = describe(text, str(base.folder))
    assert facts["kind"] == "text encoder folder" and list(facts["changes"]) == ["text_encoder"]
    ckpt, _ = layouts.compvis_ckpt(base, tmp_path)
    assert describe(ckpt)["kind"] == "text encoder + UNet + autoencoder, CompVis names"


def test_load_takes_a_base_and_what_was_unlearned(base: Base, tmp_path: Path) -> None:
    import ine_jax

    first, one = layouts.uce_partial(base, tmp_path)
    second, _ = layouts.duo_single(base, tmp_path)
    pipe = ine_jax.load(base.folder, unlearned=first, dtype=jnp.float32, batch_size=1)
    assert pipe.name == f"pipeline+{first.name}" and len(pipe.parts.changes) == 1
    got = names.to_torch(pipe.parts.unet_params)
    for key, value in one["unet"].items():
        np.testing.assert_array_equal(got[key], value)
    both = ine_jax.load(base.folder, unlearned=[str(first), second], batch_size=1)
    assert len(both.parts.changes) == 2 and {k.split("/")[0] for k in both.parts.hashes} >= {
        "unlearned-0",
        "unlearned-1",
    }


@pytest.mark.oracle
@pytest.mark.parametrize("zipped", [True, False])
def test_files_that_torch_saves(zipped: bool, base: Base, tmp_path: Path) -> None:
    """Both layouts of torch.save, parameters and tied storages included."""
    torch = pytest.importorskip("torch")
    state = {key: torch.from_numpy(value) for key, value in base.states["unet"].items()}
    state = {key: torch.nn.Parameter(value) if "bias" in key else value.half() for key, value in state.items()}
    state["conv_out.bias"] = torch.stack([state["conv_out.bias"].data] * 2)[1]  # within a larger storage
    path = tmp_path / "unet.pt"
    torch.save({"unet": state, "epoch": 3, "args": {"lr": 1e-5}}, path, _use_new_zipfile_serialization=zipped)
    (found,) = recognize.recognize_checkpoints(path)
    assert found.parts["unet"].keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(np.asarray(found.parts["unet"][key]), value.detach().numpy(), err_msg=key)


@pytest.mark.oracle
def test_diffusers_flax_reads_the_flax_folder(base: Base, tmp_path: Path) -> None:
    """diffusers 0.39's own UNet loads what is written, to the same tree."""
    diffusers = pytest.importorskip("diffusers")
    if not hasattr(diffusers, "FlaxUNet2DConditionModel"):
        pytest.skip("this diffusers has no Flax")
    parts = pipeline_folder.read_pipeline(base.folder)
    out = pipeline_folder.write_pipeline(parts, tmp_path / "flax", "float32", "flax")
    _, theirs = diffusers.FlaxUNet2DConditionModel.from_pretrained(out / "unet")
    one, two = names.to_torch(parts.unet_params), names.to_torch(theirs)
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[key], two[key]) for key in one)
