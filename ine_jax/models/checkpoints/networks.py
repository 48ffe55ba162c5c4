"""Networks of transformers that score images: from a folder or hub id to config, parameters and hashes."""

import dataclasses
from pathlib import Path
from typing import Generic, TypeVar

from ine_jax.models.checkpoints import configs, hub, names, tensors
from ine_jax.models.clip_vision import ClipConfig
from ine_jax.models.parts import TOKENIZER_FILES
from ine_jax.models.vit import VitConfig
from ine_jax.storage import weight_files as files
from ine_jax.storage.provenance import file_hash
from ine_jax.types import Params

C = TypeVar("C", bound=ClipConfig | VitConfig)
PREPROCESSOR = "preprocessor_config.json"


@dataclasses.dataclass(frozen=True)
class Network(Generic[C]):
    """A model in memory (Flax parameters, float32) and where it came from.

    `hashes` maps every file that was read to its SHA-256; `revision` is the commit, for a copy of the hub's.
    `preprocessor` holds the values of its `preprocessor_config.json`, empty where there is none.
    """

    name: str
    folder: Path
    revision: str
    config: C
    params: Params
    preprocessor: dict[str, object]
    hashes: dict[str, str]


def read_clip_network(path_or_id: str | Path, revision: str | None = None) -> Network[ClipConfig]:
    """Read a CLIPModel: `config.json` with `model.safetensors` (whole or sharded) or `pytorch_model.bin`."""
    folder = hub.model_folder(path_or_id, revision)
    values = files.read_json(files.inside(folder, "config.json"))
    return _read(path_or_id, folder, configs.parse_clip_config(values, f"{folder.name}/config.json"))


def read_vit_network(path_or_id: str | Path, revision: str | None = None) -> Network[VitConfig]:
    """Read a ViTForImageClassification; files and errors as in `read_clip_network`."""
    folder = hub.model_folder(path_or_id, revision)
    values = files.read_json(files.inside(folder, "config.json"))
    return _read(path_or_id, folder, configs.parse_vit_config(values, f"{folder.name}/config.json"))


def _read(path_or_id: str | Path, folder: Path, config: C) -> Network[C]:
    name = folder.resolve().name if Path(path_or_id).is_dir() else str(path_or_id)
    source = tensors.read_component_weights(folder, ".", "model")
    params = names.from_torch(name, source.tensors, config)
    beside = [files.inside(folder, file) for file in (PREPROCESSOR, *TOKENIZER_FILES) if (folder / file).is_file()]
    read = (folder / "config.json", *source.files, *beside)
    return Network(
        name=name,
        folder=folder,
        revision=folder.name if folder.parent.name == "snapshots" else "",
        config=config,
        params=params,
        preprocessor=files.read_json(folder / PREPROCESSOR) if (folder / PREPROCESSOR).is_file() else {},
        hashes={file.name: file_hash(file) for file in read},
    )
