"""Every unlearning method: the given model stays, the file is the result, a run continues exactly and ends once."""

import dataclasses
import functools
import os
import re
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from ine_jax.cli.artifacts import verified
from ine_jax.config import (
    AdvUnlearnConfig,
    DuoConfig,
    EsdConfig,
    MaceConfig,
    ReceConfig,
    SpmConfig,
    StereoConfig,
    UceConfig,
)
from ine_jax.config.commands import UnlearnSettings
from ine_jax.errors import CorruptRunError, InputError, Interrupted
from ine_jax.models.checkpoints import names
from ine_jax.models.checkpoints.model_files import model_id
from ine_jax.models.checkpoints.overlay import apply_checkpoints
from ine_jax.models.checkpoints.recognize import recognize_checkpoints
from ine_jax.models.checkpoints.tensors import from_array
from ine_jax.pipeline.pipeline import Pipeline, load
from ine_jax.storage.weight_files import Weights
from ine_jax.unlearning.methods import unlearn
from tests.support.cases import sample
from tests.support.flips import flip

ESD = EsdConfig(erase=("a knife",), steps=3, batch=2, ddim_steps=2, pool=2, save_every=1, log_every=1)
METHODS: dict[str, UnlearnSettings] = {
    "esd": ESD,
    "uce": UceConfig(erase=("knife", "weapon"), preserve=("a cat",)),
    "rece": ReceConfig(erase=("knife", "weapon"), epochs=2),
    "duo": DuoConfig(
        erase=("a knife",), safe=("a cat",), pairs=2, sample_steps=2, rank=2, steps=3, batch=2,
        save_every=1, log_every=1,
    ),
    "spm": SpmConfig(erase=("a knife",), steps=3, warmup=0, batch=2, ddim_steps=2, save_every=1, log_every=1),
    "mace": MaceConfig(
        erase=("knife", "weapon"), guide=("a cat",), images_each=2, sample_steps=2, steps=3, learning_rate=0.1,
        save_every=1, log_every=1,
    ),
    "stereo": StereoConfig(
        erase=("a knife",), anchors=("a knife and a cat",), method="esd-x-strict", rounds=1, erase_steps=2, pool=3,
        inversion_steps=2, ddim_steps=2, save_every=1, log_every=1,
    ),
    "advunlearn": AdvUnlearnConfig(
        erase=("a knife",), preserve=("a cat",), steps=2, preserve_batch=1, attack_start=1, attack_steps=2, pool=2,
        preserve_pool=2, ddim_steps=2, save_every=1, log_every=1,
    ),
}  # fmt: skip
KEY_VALUE = r".*\.attn2\.to_[kv]\.weight"
LAYOUTS = {  # of each method: the file, and the names in it
    **dict.fromkeys(("esd", "uce", "rece", "mace", "stereo"), ("unet.safetensors", KEY_VALUE)),
    "advunlearn": ("text_encoder/model.safetensors", r"text_model\..*"),
    "duo": ("pytorch_lora_weights.safetensors", r"unet\..*\.attn1\.to_(q|k|v|out\.0)\.lora\.(down|up)\.weight"),
    "spm": ("spm_last.safetensors", r"lora_unet_.*_attentions_.*\.(lora_down\.weight|lora_up\.weight|alpha)"),
}


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder, batch_size=4, compile_cache=False)


@pytest.fixture(params=sample(METHODS, ("esd", "uce", "rece")))
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(method: str) -> UnlearnSettings:
    return METHODS[method]


class StopAfterOne:
    """Asks to stop once the first step is shown."""

    def update(self, step: int, metrics: object) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_the_file_is_the_result_and_the_given_model_stays(
    pipe: Pipeline, method: str, tiny_folder: Path, tmp_path: Path
) -> None:
    before = jax.tree.map(np.array, {"unet": pipe.parts.unet_params, "text_encoder": pipe.parts.text_params})
    found = unlearn(pipe, METHODS[method], tmp_path)
    name, keys = LAYOUTS[method]
    file = tmp_path / name
    assert found.path == (file if found.part == "unet" else file.parent)  # a text encoder is a folder
    assert all(re.fullmatch(keys, key) for key in Weights((file,)))
    config = pipe.parts.unet_config if found.part == "unet" else pipe.parts.text_config
    base = {k: from_array(v) for k, v in names.to_torch(before[found.part]).items()}
    state, changes = apply_checkpoints(found.part, base, config, recognize_checkpoints(found.path))
    assert len(changes) == 1
    applied = names.from_torch(found.part, {key: np.asarray(tensor) for key, tensor in state.items()}, config)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6), applied, found.params)
    now = {"unet": pipe.parts.unet_params, "text_encoder": pipe.parts.text_params}
    jax.tree.map(np.testing.assert_array_equal, before, now)
    assert not verified(tmp_path).faults and verified(tmp_path).kind == "unlearned model"
    assert not verified(found.path).faults
    assert model_id(tiny_folder, unlearned=[found.path])
    flip(file, -1)
    assert [fault.split(": ")[0] for fault in verified(tmp_path).faults] == [str(file)]
    assert verified(found.path).faults
    with pytest.raises(CorruptRunError, match="undamaged copy"):
        model_id(tiny_folder, unlearned=[found.path])


def test_a_run_continues_exactly_and_ends_once(
    pipe: Pipeline, method: str, settings: UnlearnSettings, tmp_path: Path
) -> None:
    unlearn(pipe, settings, tmp_path / "whole")
    if settings.steps > 1:
        with pytest.raises(Interrupted):
            unlearn(pipe, settings, tmp_path / "cut", StopAfterOne())
    unlearn(pipe, settings, tmp_path / "cut")
    files = (LAYOUTS[method][0], "log.jsonl", "SHA256SUMS")
    whole = [(tmp_path / "whole" / name).read_bytes() for name in files]
    assert [(tmp_path / "cut" / name).read_bytes() for name in files] == whole
    unlearn(pipe, settings, tmp_path / "cut")
    assert [(tmp_path / "cut" / name).read_bytes() for name in files] == whole


def test_another_run_does_not_continue_in_its_directory(
    pipe: Pipeline, settings: UnlearnSettings, tmp_path: Path
) -> None:
    unlearn(pipe, settings, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(InputError, match="erase"):
        unlearn(pipe, dataclasses.replace(settings, erase=("a dog",)), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
