"""Low-rank changes of weights (LoRA, arXiv 2106.09685): W ← W + s·up·down, s = alpha / rank, or 1 without an alpha.

| written by            | key of the first factor                                                          |
|-----------------------|----------------------------------------------------------------------------------|
| diffusers (DUO)       | `unet.<module>.lora.down.weight`                                               |
| diffusers before 0.17 | `unet.<attention>.processor.to_q_lora.down.weight`                             |
| peft                  | `unet.<module>.lora_A.weight`, `base_model.model.<module>.lora_A.weight`     |
| kohya (SPM)           | `lora_unet_<module with _ for .>.lora_down.weight`, beside it `.alpha`       |

Convolutions keep their kernel in the first factor; the second is 1×1. peft's alpha is in `adapter_config.json`,
or under `lora_adapter_metadata` in the header of diffusers' files.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping

import numpy as np

from ine_jax.errors import InputError
from ine_jax.models.checkpoints.tensors import State, Tensor

_ROLES = {"down": "down", "A": "down", "up": "up", "B": "up", "alpha": "alpha"}
_KEY = re.compile(
    r"(?P<module>.+?)\.(?:(?:lora\.|lora_|lora_linear_layer\.)(?P<role>down|up|A|B)(?:\.default)?\.weight|(?P<alpha>alpha))"
)
_PROCESSOR = re.compile(r"(?P<attention>.+)\.processor\.to_(?P<which>q|k|v|out)_lora\.(?P<role>down|up)\.weight")
_PREFIX = re.compile(r"base_model\.model\.|(?P<part>unet|text_encoder)\.|lora_(?P<kohya>unet|te)1?_")
_TEXT_MODULE = re.compile(r"text_model[._]|encoder\.layers\.")


@dataclasses.dataclass(frozen=True)
class Factors:
    """One module's change: `down [rank, in, ...]`, `up [out, rank, ...]` and their scale."""

    down: Tensor
    up: Tensor
    scale: float

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the product has the shape of the weight (1×1 convolution and dense layer count as one)."""
        rank = self.down.shape[0]
        return math.prod(self.up.shape) == shape[0] * rank and math.prod(self.down.shape) == rank * math.prod(shape[1:])

    def product(self, shape: tuple[int, ...]) -> np.ndarray:
        """s·up·down in float32."""
        rank = self.down.shape[0]
        up, down = (np.asarray(part).astype(np.float32) for part in (self.up, self.down))
        return (np.float32(self.scale) * (up.reshape(-1, rank) @ down.reshape(rank, -1))).reshape(shape)


def is_lora(key: str) -> bool:
    """Whether a key of a file names a factor of a low-rank change."""
    return _PROCESSOR.fullmatch(key) is not None or (bool(_KEY.fullmatch(key)) and not key.endswith(".alpha"))


def lora_factors(
    what: str, state: State, metadata: Mapping[str, str], adapter: Mapping[str, object]
) -> dict[tuple[str, str], Factors]:
    """(component, module name with `_` for `.`) → factors, of every module in the file.

    `metadata` is the file's header, `adapter` peft's `adapter_config.json`. Raises `InputError` for a key
    that is no factor, a factor without its fellow, and options that are more than a product of two factors.
    """
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    dotted: dict[tuple[str, str], str] = {}
    for key, tensor in state.items():
        module, role = _split(what, key)
        prefix = _PREFIX.match(module)
        name, part = module, ""
        if prefix is not None:
            name = module[prefix.end() :]
            part = prefix["part"] or {"unet": "unet", "te": "text_encoder"}.get(prefix["kohya"], "")
        part = part or ("text_encoder" if _TEXT_MODULE.match(name) else "unet")
        where = part, name.replace(".", "_")
        dotted[where] = name
        found.setdefault(where, {})[role] = tensor
    options = _options(what, metadata, adapter)
    return {where: _factors(what, dotted[where], parts, options(where[0])) for where, parts in found.items()}


def _split(what: str, key: str) -> tuple[str, str]:
    if found := _PROCESSOR.fullmatch(key):
        return f"{found['attention']}.to_{found['which']}{'.0' if found['which'] == 'out' else ''}", found["role"]
    if found := _KEY.fullmatch(key):
        return found["module"], _ROLES[found["role"] or "alpha"]
    given = f"{what}: unexpected key {key} in a LoRA"
    raise InputError(given, "pairs of factors and alphas", "merge it with its own tool")


def _options(
    what: str, metadata: Mapping[str, str], adapter: Mapping[str, object]
) -> Callable[[str], dict[str, object]]:
    """Component → peft's options for it."""
    try:
        header = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError) as error:
        given = f"{what}: lora_adapter_metadata: {error}"
        raise InputError(given, "a JSON object", "take an undamaged copy") from error
    values = dict(adapter) if adapter else dict(header) if isinstance(header, dict) else {}

    def of(part: str) -> dict[str, object]:
        own = {key.removeprefix(f"{part}."): value for key, value in values.items()}
        for name in ("use_dora", "use_rslora"):
            if own.get(name):
                raise InputError(f"{what}: {name}", "plain LoRA", "merge it with peft and save the whole UNet")
        return own

    return of


def _factors(what: str, module: str, parts: Mapping[str, Tensor], options: Mapping[str, object]) -> Factors:
    if "down" not in parts or "up" not in parts:
        lacks = "down" if "up" in parts else "up"
        raise InputError(f"{what}: {module} lacks its factor {lacks!r}", "both factors", "take an undamaged copy")
    down, up = parts["down"], parts["up"]
    rank = down.shape[0] if down.shape else 0
    if rank == 0 or len(down.shape) < 2 or len(up.shape) < 2 or up.shape[1] != rank:
        given = f"{what}: {module}: factors {list(up.shape)} and {list(down.shape)}"
        raise InputError(given, "[out, rank] and [rank, in]", "check it")
    scale = _alpha(module, parts, options) / rank if "alpha" in parts or "lora_alpha" in options else 1.0
    if not math.isfinite(scale):
        raise InputError(f"{what}: {module}: no finite alpha", "a number", "take an undamaged copy")
    return Factors(down, up, scale)


def _alpha(module: str, parts: Mapping[str, Tensor], options: Mapping[str, object]) -> float:
    """The module's own alpha, else that of the first pattern that ends its name, else the file's; NaN for no number."""
    if "alpha" in parts:
        held = np.asarray(parts["alpha"]).reshape(-1)
        return float(held[0]) if held.size == 1 else math.nan
    patterns = options.get("alpha_pattern")
    own = patterns.items() if isinstance(patterns, Mapping) else ()
    found = next((a for end, a in own if f".{module}".endswith(f".{end}")), options["lora_alpha"])
    return float(found) if isinstance(found, int | float) else math.nan
