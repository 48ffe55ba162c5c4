"""What every unlearning method returns and writes: changed weights in the layout of `delta`, or a LoRA."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from ine_jax.models.checkpoints.delta import write_unet_delta
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.storage.provenance import canonical
from ine_jax.training.finished import write_hashes
from ine_jax.types import Params

WEIGHTS = "unet.safetensors"


class Result(NamedTuple):
    """The UNet's parameters after unlearning, and the file of what changed."""

    params: Params
    path: Path


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
        texts = {key: value if isinstance(value, str) else canonical(value) for key, value in notes.items()}
        write_hashes(path.parent, [path, *writer(path, texts)])
    return Result(params, path)
