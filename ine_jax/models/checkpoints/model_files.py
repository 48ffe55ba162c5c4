"""Which files make a model, found without loading it, and the content id that names the model everywhere."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from ine_jax import assets
from ine_jax.errors import CorruptRunError, InputError
from ine_jax.models.checkpoints import hub, tensors
from ine_jax.models.checkpoints.recognize import STEMS, Checkpoint
from ine_jax.models.parts import COMPONENTS, TOKENIZER_FILES, id_from_hashes
from ine_jax.models.unet import UNetConfig
from ine_jax.models.vae import VaeConfig
from ine_jax.storage import weight_files as files
from ine_jax.storage.provenance import file_hash
from ine_jax.storage.sealed import SUMS, WRONG, read_sums


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """A model that was found but not loaded; `checkpoints` are applied on top of it in their order.

    `paths` maps component and file name of every file that is read; those of checkpoint number i are under
    `unlearned-<i>/`, or `unlearned-<i>:<multiplier>/` for a scaled LoRA.
    """

    name: str
    folder: Path
    sources: Mapping[str, tensors.Source]
    checkpoints: Sequence[Checkpoint]
    paths: Mapping[str, Path]

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file. CorruptRunError where the SHA256SUMS beside a checkpoint has another one."""
        found = {name: file_hash(path) for name, path in self.paths.items()}
        for name, digest in found.items():
            if name.startswith("unlearned-"):
                _require_recorded(self.paths[name], digest)
        return found

    @property
    def image_side(self) -> int:
        """Side of the model's own images, in pixels."""
        unet, vae = (files.read_json(self.paths[f"{part}/config.json"]) for part in ("unet", "vae"))
        return UNetConfig.from_dict(unet).sample_size * VaeConfig.from_dict(vae).downscale


def _require_recorded(path: Path, digest: str) -> None:
    try:
        recorded = read_sums(path.parent).get(path.name, digest)
    except CorruptRunError:  # there is none, or it is of another program
        return
    if recorded != digest:
        raise CorruptRunError(f"{path}: {WRONG}", f"the one in {SUMS} beside it", "take an undamaged copy")


def find_model_files(
    name: str | Path, revision: str | None = None, variant: str | None = None, unlearned: Sequence[str | Path] = ()
) -> ModelFiles:
    """Find the files of a model; arguments as in `read_pipeline`. Only headers of weight files are read."""
    bundled = assets.resolve(str(name))
    if bundled is None:
        folder, below = hub.pipeline_folder(name, revision, variant), []
        label = folder.resolve().name if Path(name).is_dir() else str(name)
    else:
        folder, below, label = bundled[0], [one for one in bundled[1:] if one], str(name)
    _check_index(folder)
    paths = {f"{part}/config.json": files.inside(folder, f"{part}/config.json") for part in STEMS}
    paths["scheduler/scheduler_config.json"] = files.inside(folder, "scheduler/scheduler_config.json")
    for path in paths.values():
        if not path.is_file():
            raise InputError(f"{path} is missing", "a diffusers pipeline folder", "check the path")
    sources = {part: tensors.read_component_weights(folder, part, stem, variant) for part, stem in STEMS.items()}
    paths |= {f"{part}/{file.name}": file for part, source in sources.items() for file in source.files}
    held = [file for file in TOKENIZER_FILES if (folder / "tokenizer" / file).is_file()]
    paths |= {f"tokenizer/{file}": files.inside(folder, f"tokenizer/{file}") for file in held}
    checkpoints, added = hub.open_checkpoints([*below, *unlearned])
    label = "+".join([label, *dict.fromkeys(Path(one).name for one in unlearned)])
    return ModelFiles(label, folder, sources, checkpoints, paths | added)


def model_id(name: str | Path, revision: str | None = None, unlearned: Sequence[str | Path] = ()) -> str:
    """The content id that `load` with the same arguments gives its pipeline; the weights are hashed, not loaded."""
    return id_from_hashes(find_model_files(name, revision, unlearned=unlearned).hashes())


def _check_index(folder: Path) -> None:
    index = files.read_json(files.inside(folder, "model_index.json"))
    for component, (_, wanted) in COMPONENTS.items():
        entry = index.get(component)
        known = isinstance(entry, list) and len(entry) == 2 and str(entry[1]).removeprefix("Flax") == wanted
        if component != "tokenizer" and not known:
            given = f"{folder / 'model_index.json'}: {component} is {entry!r}"
            raise InputError(given, f"{wanted} (Stable Diffusion 1.x and 2.x)", "use a folder of one of these families")
