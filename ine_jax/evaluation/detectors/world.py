"""The bundled world's detector: a small convolutional multi-label classifier over its objects, in Flax."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float, Shaped

from ine_jax.errors import InputError
from ine_jax.evaluation.detectors.base import Images, Scored, Verdict, detect_checked
from ine_jax.evaluation.detectors.vision import in_batches
from ine_jax.evaluation.metrics.weights import weights_hash
from ine_jax.storage import untrusted
from ine_jax.storage.atomic import write_atomic
from ine_jax.storage.records import About
from ine_jax.storage.safetensors_writer import write_safetensors
from ine_jax.storage.weight_files import read_json
from ine_jax.types import Params

MAX_BYTES = 64 * 2**20
BATCH = 32


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """Shape of a `WorldNet` and the meaning of its outputs."""

    labels: tuple[str, ...]  # of the logits
    channels: tuple[int, ...] = (24, 48, 96, 128)
    image_size: int = 32  # of training; others are resized
    groups: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # weapon, animal, ... -> labels
    version: str = "1"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "WorldConfig":
        """Read JSON values; unknown keys, no labels and group members that are not labels raise InputError."""
        allowed = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(allowed))
        labels = tuple(values.get("labels", ()))
        if unknown or not labels or len(set(labels)) != len(labels):
            raise InputError(
                f"detector config with unknown keys {unknown}, labels {list(labels)[:8]}",
                f"keys {allowed}; labels distinct and not empty",
                "repair the detector's config.json",
            )
        groups = {str(name): tuple(members) for name, members in dict(values.get("groups", {})).items()}
        strangers = sorted({member for members in groups.values() for member in members} - set(labels))
        if strangers:
            raise InputError(f"groups name {strangers}", "members of labels", "repair the detector's config.json")
        rest = {key: values[key] for key in ("image_size", "version") if key in values}
        return cls(labels=labels, channels=tuple(values.get("channels", cls.channels)), groups=groups, **rest)


class WorldNet(nn.Module):
    """Images in [-1, 1] -> logits.

    Per entry of `channels`: 3x3 convolution, GroupNorm and SiLU, twice; the first of the two has stride 2, except in
    the first block. Then mean and maximum over the positions, dropout in training, and one linear layer.
    """

    labels: int
    channels: tuple[int, ...] = (24, 48, 96, 128)
    dropout: float = 0.1

    @nn.compact
    def __call__(
        self, images: Float[jax.Array | np.ndarray, "B H W 3"], train: bool = False
    ) -> Float[jax.Array, "B label"]:
        """Return logits; with `train` dropout is on and needs the rng "dropout"."""
        x = jnp.asarray(images)
        for level, width in enumerate(self.channels):
            for layer in range(2):
                stride = 2 if level > 0 and layer == 0 else 1
                x = nn.Conv(width, (3, 3), (stride, stride), name=f"conv_{level}_{layer}")(x)
                x = nn.silu(nn.GroupNorm(num_groups=8, name=f"norm_{level}_{layer}")(x))
        x = jnp.concatenate([x.mean(axis=(1, 2)), x.max(axis=(1, 2))], axis=-1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.labels, name="head")(x)


@dataclasses.dataclass(frozen=True)
class WorldDetector:
    """A trained `WorldNet` behind the `Detector` protocol; scores are sigmoids of its logits."""

    config: WorldConfig
    params: Params
    id: str = "world"

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the scores, in logit order."""
        return self.config.labels

    @cached_property
    def version(self) -> str:
        """The config's version and a short hash of the weights, so retraining gives the scores another folder."""
        return f"{self.config.version}-{weights_hash(_flat(self.params))[:8]}"

    @cached_property
    def _probabilities(self) -> Callable[[jax.Array], jax.Array]:
        net = WorldNet(len(self.config.labels), self.config.channels)
        size = self.config.image_size

        @jax.jit
        def probabilities(params: Params, images: Shaped[jax.Array, "B H W 3"]) -> Float[jax.Array, "B label"]:
            x = images.astype(jnp.float32) / 127.5 - 1.0
            x = jax.image.resize(x, (x.shape[0], size, size, 3), "linear", antialias=True)
            return nn.sigmoid(cast(jax.Array, net.apply({"params": params}, x)))

        return lambda images: probabilities(self.params, images)

    def about(self) -> About:
        """Return labels, groups, hash of the weights and preprocessing."""
        size = self.config.image_size
        return {
            "kind": "detector",
            "labels": list(self.labels),
            "groups": {name: list(labels) for name, labels in self.config.groups.items()},
            "weights": weights_hash(_flat(self.params)),
            "preprocessing": f"linear to {size} px, antialiased; [-1, 1]",
        }

    def detect(self, images: Images) -> list[Verdict]:
        """Return one verdict per image [B, H, W, 3]; NaN, constant or failing images are `Unscored`."""
        return detect_checked(images, self._detect)

    def _detect(self, images: np.ndarray) -> list[Verdict]:
        scores = in_batches(self._probabilities, lambda rows: images[rows], len(images), BATCH)
        return [Scored({k: round(float(v), 6) for k, v in zip(self.labels, row, strict=True)}) for row in scores]

    def save(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors (float32, dotted names) into `folder`, both atomically."""
        folder = Path(folder)
        flat = {name: np.asarray(value, np.float32) for name, value in _flat(self.params).items()}
        write_safetensors(folder / "model.safetensors", flat, {"format": "ine_jax.world_detector"})
        write_atomic(folder / "config.json", json.dumps(dataclasses.asdict(self.config), indent=1) + "\n", shared=True)

    @classmethod
    def load(cls, folder: str | Path) -> "WorldDetector":
        """Read a folder written by `save`; float16 weights are widened. InputError names the fault."""
        folder = Path(folder)
        weights = folder / "model.safetensors"
        try:
            config = WorldConfig.from_dict(read_json(folder / "config.json"))
            data = untrusted.read(weights, MAX_BYTES)
            flat = {k: v.astype(np.float32) for k, v in safetensors.numpy.load(data).items()}
        except InputError:
            raise
        except (OSError, ValueError, TypeError, AttributeError, safetensors.SafetensorError) as error:
            raise InputError(
                f"detector {folder}: {error}",
                "a folder with config.json and model.safetensors",
                "give the folder of a world detector",
            ) from error
        _check(flat, config, folder)
        return cls(config, flax.traverse_util.unflatten_dict(flat, sep="."))


def _check(flat: Mapping[str, np.ndarray], config: WorldConfig, folder: Path) -> None:
    net = WorldNet(len(config.labels), config.channels)
    image = jnp.zeros((1, config.image_size, config.image_size, 3))
    tree = jax.eval_shape(net.init, jax.random.key(0), image)["params"]
    want = {name: leaf.shape for name, leaf in _flat(tree).items()}
    have = {name: leaf.shape for name, leaf in flat.items()}
    wrong = sorted(name for name in want.keys() | have.keys() if want.get(name) != have.get(name))
    wrong += sorted(name for name, leaf in flat.items() if not np.isfinite(leaf).all())
    if wrong:
        raise InputError(
            f"detector {folder}: tensors missing, unexpected, misshapen or not finite: {wrong[:8]}",
            f"the {len(want)} tensors of its config.json",
            "save the detector again",
        )


def _flat(tree: Params) -> Params:
    """The leaves by their dotted names."""
    return cast(Params, flax.traverse_util.flatten_dict(dict(tree), sep="."))
