"""How A1111 and ComfyUI read an embedding, rebuilt from their documented behaviour, over torch's own safe loader."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch


def open_tensors(path: Path) -> Any:
    """Open a file as both tools do: safetensors by suffix, else torch.load that executes nothing."""
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    return torch.load(path, weights_only=True, map_location="cpu")


def a1111(path: Path, width: int) -> tuple[str, Any]:
    """Return word and vectors as the web UI reads them, for a model whose text encoder is `width` wide.

    The word is the file's stem. `string_to_param` must have one entry; a file with both SDXL keys is a pair and as wide
    as both together; another mapping must have one tensor, a single vector being one row. Another width is ignored.
    """
    data = open_tensors(path)
    if "string_to_param" in data:
        assert len(data["string_to_param"]) == 1
        found = next(iter(data["string_to_param"].values())).float()
        wide = found.shape[-1]
    elif isinstance(data, dict) and {"clip_g", "clip_l"} <= set(data):
        found = {key: data[key].float() for key in ("clip_g", "clip_l")}
        wide = sum(part.shape[-1] for part in found.values())
    else:
        assert isinstance(data, dict) and len(data) == 1
        found = next(iter(data.values())).float()
        found = found[None] if found.ndim == 1 else found
        wide = found.shape[-1]
    assert wide == width, "ignored: made for another model"
    return path.stem, found


def comfy(folder: Path, word: str, width: int, key: str) -> Any:
    """Return the tensor of `embedding:NAME` for the text encoder `key`, which is `width` wide.

    The word ends at a space or comma. Tried are three suffixes; then an entry of `string_to_param`, a list's tensors of
    the right width, the entry of the text encoder's name, the first entry.
    """
    name = word.removeprefix("embedding:").replace(",", " ").split(" ")[0]
    path = next(p for s in (".safetensors", ".pt", ".bin") if (p := folder / (name + s)).is_file())
    data = open_tensors(path)
    if "string_to_param" in data:
        return next(iter(data["string_to_param"].values()))
    if isinstance(data, list):
        rows = [t.reshape(-1, t.shape[-1]) for held in data for t in held.values() if t.shape[-1] == width]
        return torch.cat(rows)
    return data[key] if key in data else next(iter(data.values()))
