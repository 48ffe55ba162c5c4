"""What a call of a pipeline returns: images with their prompts, seeds and latents."""

import base64
import html
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ine_jax.errors import InputError, clean
from ine_jax.prompts.items import Item, named
from ine_jax.storage.atomic import atomic_folder, write_durable
from ine_jax.storage.images import png
from ine_jax.storage.sealed import jsonl
from ine_jax.types import HostImages, HostLatents, LatentShape

THUMBNAIL = 128  # pixels of the longer side in a notebook
SHOWN = 24  # thumbnails in a notebook
METADATA = "metadata.jsonl"


@dataclass(frozen=True, eq=False)
class Samples:
    """Generated images, one per prompt.

    Attributes:
        prompts: of each image.
        seeds: of each image; empty where the initial noise was given.
        latents: in the UNet's scale, float32 [B, h, w, c].
        decoded: uint8 [B, H, W, 3], or None where only latents were asked for.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    latents: HostLatents
    decoded: HostImages | None

    @property
    def arrays(self) -> HostImages:
        """The images as uint8 [B, H, W, 3]. InputError where only latents were asked for."""
        if self.decoded is None:
            raise InputError("images of a call with output='latents'", "latents", "use pipe.decode(samples.latents)")
        return self.decoded

    @property
    def images(self) -> list[Image.Image]:
        """The images as PIL images."""
        return [Image.fromarray(array) for array in self.arrays]

    def save(self, folder: str | Path) -> list[Path]:
        """Write PNGs and a `metadata.jsonl`, as `ine generate` names them, into a folder (mode 0700); return the PNGs.

        Raises:
            InputError: the folder is not empty, or its own folder does not exist.
        """
        place = Path(folder)
        if not place.parent.is_dir():
            raise InputError(f"folder {place}: no folder {place.parent}", "an existing folder", "make it")
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise InputError(f"folder {place} holds other files", "a new or empty folder", "choose another one")
        names = list(named([Item(str(i), prompt, 0) for i, prompt in enumerate(self.prompts)]))
        arrays, rows = self.arrays, []
        with atomic_folder(place, 0o700) as made:
            for i, (name, prompt) in enumerate(zip(names, self.prompts, strict=True)):
                write_durable(made / name, png(arrays[i]))
                rows.append({"file_name": name, "prompt": prompt} | ({"seed": self.seeds[i]} if self.seeds else {}))
            write_durable(made / METADATA, jsonl(rows).encode())
        return [place / name for name in names]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.prompts)

    def __repr__(self) -> str:
        """Number, size and seeds."""
        size, noun = "latents", "image" if len(self) == 1 else "images"
        if self.decoded is not None:
            size = f"{noun} of {self.decoded.shape[1]} x {self.decoded.shape[2]}"
        seeds = ", ".join(map(str, self.seeds[:8])) + (", ..." if len(self.seeds) > 8 else "")
        return f"Samples({len(self)} {size}{f', seeds {seeds}' if seeds else ''})"

    def _repr_html_(self) -> str:
        """Thumbnails with prompts and seeds, for a notebook."""
        rest = len(self) - SHOWN
        more = f"<p>and {rest} more</p>" if rest > 0 else ""
        return f"<p>{html.escape(repr(self))}</p>{''.join(self._figures())}{more}"

    def _figures(self) -> Iterator[str]:
        style = f"display:inline-block;margin:4px;width:{THUMBNAIL}px;vertical-align:top;overflow-wrap:anywhere"
        for i, array in enumerate(() if self.decoded is None else self.decoded[:SHOWN]):
            caption = clean(self.prompts[i], 80) + (f" (seed {self.seeds[i]})" if self.seeds else "")
            about = html.escape(caption)
            source = f"data:image/webp;base64,{_thumbnail(array)}"
            yield f'<figure style="{style}"><img src="{source}" alt="{about}"><figcaption>{about}</figcaption></figure>'


def no_samples(shape: LatentShape, cell: int) -> Samples:
    """Return the result for no prompts: latents of `shape`, of `cell` pixels each."""
    latents, images = (0, *shape), (0, shape[0] * cell, shape[1] * cell, 3)
    return Samples((), (), np.zeros(latents, np.float32), np.zeros(images, np.uint8))


def _thumbnail(array: np.ndarray) -> str:
    image, buffer = Image.fromarray(array), io.BytesIO()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    image.save(buffer, "WEBP", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()
