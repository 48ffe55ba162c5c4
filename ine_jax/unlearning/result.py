"""What every unlearning method returns and writes: changed weights of the UNet, a LoRA, or a text encoder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from ine_jax.models.checkpoints import names
from ine_jax.models.checkpoints.configs import config_json
from ine_jax.models.checkpoints.delta import write_unet_delta
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.storage.atomic import write_json
from ine_jax.storage.provenance import canonical
from ine_jax.storage.safetensors_writer import write_safetensors
from ine_jax.storage.sealed import write_sums
from ine_jax.training.finished import write_hashes
from ine_jax.types import Params

WEIGHTS = "unet.safetensors"
ENCODER = "text_encoder"


class Result(NamedTuple):
    """The parameters after unlearning of the part that changed, and where they are: the file of what changed in the
    UNet, or the folder of the text encoder. `--unlearned` applies both.
    """

    params: Params
    path: Path
    part: str = "unet"


def origin_of(pipe: Pipeline) -> dict[str, str]:
    """The model that a run starts from, as its directory and its weights record it."""
    return {"model": pipe.name, "model_id": pipe.model_id}


def write(
    pipe: Pipeline, params: Params, folder: Path, notes: Mapping[str, object], beside: Sequence[Path] = ()
) -> Result:
    """Write what differs from the pipeline's own UNet, with `notes` in its header, and the hashes of the directory.

    `beside` are further files of the run below `folder`.
    """

    def delta(path: Path, metadata: dict[str, str]) -> Sequence[Path]:
        write_unet_delta(params, pipe.parts.unet_params, path, metadata)
        return beside

    return write_file(params, folder / WEIGHTS, notes, delta)


def write_file(
    params: Params,
    path: Path,
    notes: Mapping[str, object],
    writer: Callable[[Path, dict[str, str]], Sequence[Path]],
) -> Result:
    """Let `writer` write the weights, with `notes` for the header, and write the hashes of the directory.

    `writer` returns further files of the run below that directory.
    """
    if jax.process_index() == 0:
        write_hashes(path.parent, [path, *writer(path, _texts(notes))])
    return Result(params, path)


def write_text_encoder(pipe: Pipeline, params: Params, folder: Path, notes: Mapping[str, object]) -> Result:
    """Write the text encoder as a `CLIPTextModel` folder of transformers, and the hashes of it and of the directory."""
    path = folder / ENCODER
    if jax.process_index() == 0:
        tensors = {name: array.astype(np.float32) for name, array in names.to_torch(params).items()}
        values = {**config_json(pipe.parts.text_config), "torch_dtype": "float32"}
        write_safetensors(path / "model.safetensors", tensors, _texts(notes))
        write_json(path / "config.json", values, indent=2)
        write_sums(path, ["config.json", "model.safetensors"])
        write_hashes(folder, sorted(path.iterdir()))
    return Result(params, path, "text_encoder")


def _texts(notes: Mapping[str, object]) -> dict[str, str]:
    return {key: value if isinstance(value, str) else canonical(value) for key, value in notes.items()}
