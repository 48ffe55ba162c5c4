"""A text-to-image model in memory, its content id, and the names of its folder."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ine_jax.models.clip import ClipTextConfig
from ine_jax.models.trees import flatten_params
from ine_jax.models.unet import UNetConfig
from ine_jax.models.vae import VaeConfig
from ine_jax.storage.provenance import canonical, file_hash, value_hash
from ine_jax.types import Params

TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
MAX_TOKENIZER = 16 << 20  # bytes of one of these files
COMPONENTS = {
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
}


@dataclasses.dataclass(frozen=True)
class ModelParts:
    """All parts of a text-to-image model: configs, parameters (Flax trees) and where they came from.

    `hashes` maps each file that was read (relative to `path`) to its SHA-256; files of checkpoints on top are under
    `unlearned-<number>/`. It is empty for a model that was not read from files. `changes` describes in one line each
    what those checkpoints changed.
    """

    name: str
    path: Path
    text_config: ClipTextConfig
    text_params: Params
    unet_config: UNetConfig
    unet_params: Params
    vae_config: VaeConfig
    vae_params: Params
    scheduler_config: dict[str, object]
    tokenizer_dir: Path
    hashes: dict[str, str]
    changes: tuple[str, ...] = ()

    @functools.cached_property
    def model_id(self) -> str:
        """Content id: of the files, or of the tensors (in float32) and configs where there are no files."""
        return id_from_hashes(self.hashes) if self.hashes else _id_from_tensors(self)


def id_from_hashes(hashes: Mapping[str, str]) -> str:
    """Content id of a model from the SHA-256 of its files, keyed as in `ModelParts.hashes`.

    File names below a component do not count, so sharding order and renamed files change nothing; the order of
    checkpoints and their multipliers do.
    """
    groups: dict[str, list[str]] = {}
    for name, digest in hashes.items():
        groups.setdefault(name.split("/")[0], []).append(digest)
    return value_hash({group: sorted(digests) for group, digests in groups.items()})


def _id_from_tensors(parts: ModelParts) -> str:
    vocabulary = [parts.tokenizer_dir / name for name in TOKENIZER_FILES if (parts.tokenizer_dir / name).is_file()]
    configs = [dataclasses.asdict(config) for config in (parts.text_config, parts.unet_config, parts.vae_config)]
    described = [*configs, parts.scheduler_config, [file_hash(path) for path in vocabulary]]
    digest = hashlib.sha256(canonical(described).encode())
    trees = {"text_encoder": parts.text_params, "unet": parts.unet_params, "vae": parts.vae_params}
    for path, leaf in sorted(flatten_params(trees).items()):
        digest.update(f"{'/'.join(path)}{leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf, np.float32).data)
    return digest.hexdigest()
