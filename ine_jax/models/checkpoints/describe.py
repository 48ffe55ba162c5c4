"""What a checkpoint of weights is, for `ine inspect`: kind, family, contents, and what it changes against a base."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

from ine_jax import assets
from ine_jax.models.checkpoints import configs, hub, overlay, recognize, tensors
from ine_jax.models.checkpoints.names import ModelConfig
from ine_jax.models.checkpoints.recognize import STEMS, Checkpoint
from ine_jax.models.clip import ClipTextConfig
from ine_jax.models.unet import UNetConfig
from ine_jax.models.vae import VaeConfig
from ine_jax.storage import weight_files as files
from ine_jax.storage.provenance import file_hash

Facts = dict[str, Any]

_KINDS = 20  # more kinds of layers than that are a whole network; their list would say nothing
_CONFIGS: dict[str, type] = {"text_encoder": ClipTextConfig, "unet": UNetConfig, "vae": VaeConfig}


def checkpoint_facts(path: Path, base: str = "") -> Facts:
    """Facts of the checkpoint at `path`, from names and shapes alone; its files are read for their hashes.

    With the model `base` also which of its tensors change value. Several LoRAs in one folder are described together.
    """
    found = recognize.recognize_checkpoints(path)
    kinds = Counter(one.kind for one in found)
    facts: Facts = {"kind": ", ".join(kind if n == 1 else f"{n} x {kind}, added" for kind, n in kinds.items())}
    facts["family"] = ", ".join(dict.fromkeys(map(recognize.base_family, found)))
    for part in STEMS:
        lines = [line for one in found if (line := _holds(one, part))]
        facts |= {part: "; ".join(dict.fromkeys(lines))} if lines else {}
    held = [tensor for one in found for tensor in one.tensors()]
    total = sum(math.prod(tensor.shape) for tensor in held)
    facts["holds"] = f"{total:,} parameters in {len(held)} tensors"
    facts["dtype"] = ", ".join(sorted({tensor.dtype for tensor in held}))
    if base:
        facts["changes"] = _changes(found, base)
    facts["metadata"] = {key: value for one in found for key, value in one.metadata.items()}
    top = path if path.is_dir() else path.parent
    facts["sha256"] = {str(file.relative_to(top)): file_hash(file) for one in found for file in one.files}
    return facts


def _holds(one: Checkpoint, part: str) -> str:
    if part in one.parts:
        count, kinds = len(one.parts[part]), recognize.summarize_layers(one.parts[part])
        return f"{count} tensors" + ("" if one.whole or kinds.count(",") >= _KINDS else f": {kinds}")
    modules = [(name, pair) for (owner, name), pair in one.factors.items() if owner == part]
    if not modules:
        return ""
    ranks = sorted({pair.down.shape[0] for _, pair in modules})
    scales = sorted({pair.scale for _, pair in modules})
    return f"{len(modules)} modules of rank {', '.join(map(str, ranks))}, scale {', '.join(f'{s:g}' for s in scales)}"


def _changes(found: tuple[Checkpoint, ...], base: str) -> Facts:
    """Per part of the base: how many tensors get another value, and which."""
    bundled = assets.resolve(base)
    folder = hub.pipeline_folder(base, None, None) if bundled is None else bundled[0]
    below = recognize.recognize_checkpoints(bundled[1]) if bundled is not None and bundled[1] is not None else ()
    facts: Facts = {}
    for part, stem in STEMS.items():
        name = f"{part}/config.json"
        values = files.read_json(files.inside(folder, name))
        config: ModelConfig = configs.parse_config(_CONFIGS[part], values, name)
        stored = tensors.read_component_weights(folder, part, stem).tensors
        state, _ = overlay.apply_checkpoints(part, stored, config, below, True)
        changed, lines = overlay.apply_checkpoints(part, state, config, found, True)
        if lines:
            other = overlay.changed_tensors(state, config, changed)
            which = f": {recognize.summarize_layers(other)}" if other else ""
            facts[part] = f"{len(other)} of {len(changed)} tensors differ from {base}{which}"
    return facts
