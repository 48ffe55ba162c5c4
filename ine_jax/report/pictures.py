"""Pictures for people: small encoded images for a page, and labelled grids as one PNG."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ine_jax.errors import InputError, clean

SMALL = 128  # pixels; up to here an image is kept as it is, larger ones become WebP of at most LARGE pixels
LARGE = 320
PAPER, INK = (255, 255, 255), (30, 34, 42)


@dataclasses.dataclass(frozen=True)
class Picture:
    """An encoded image, and how a page names it: `data`, its `kind` (png or webp), width and height in pixels."""

    data: bytes
    kind: str
    width: int
    height: int

    def uri(self) -> str:
        """The picture as `data:` URI."""
        return f"data:image/{self.kind};base64,{base64.b64encode(self.data).decode()}"

    def file_name(self) -> str:
        """A name made of its content alone."""
        return f"{hashlib.sha256(self.data).hexdigest()[:32]}.{self.kind}"


def encode(data: bytes) -> Picture:
    """A stored PNG as a page shows it: as it is where it is small, else WebP at most 320 pixels wide.

    ValueError where it is no PNG.
    """
    try:
        picture: Image.Image = Image.open(io.BytesIO(data), formats=["PNG"])
        if max(picture.size) <= SMALL:
            picture.load()
            return Picture(data, "png", *picture.size)
        picture = picture.convert("RGB")
    except OSError as error:
        raise ValueError(f"no PNG: {error}") from error
    picture.thumbnail((LARGE, LARGE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=82)
    return Picture(buffer.getvalue(), "webp", *picture.size)


def grid(
    images: Sequence[Sequence[np.ndarray]],
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    *,
    cell: int = 96,
    title: str = "",
) -> bytes:
    """PNG bytes of a labelled grid: `images[r][c]` uint8 [H, W, 3], drawn at `cell` pixels with labels beside it.

    Small images are enlarged without smoothing by a whole factor first, so that pixels stay honest. InputError where
    rows differ in length or labels do not fit.
    """
    widths = {len(row) for row in images}
    if (
        len(widths) != 1
        or widths == {0}
        or (columns and len(columns) not in widths)
        or len(rows) not in (0, len(images))
    ):
        raise InputError(f"a grid of rows of {sorted(widths)} images", "rows of one length with a label each", "")
    font = ImageFont.load_default(size=13)
    gap, left = 6, max((_width(font, clean(text)) + 12 for text in rows), default=0)
    heading = [_wrap(font, clean(text), cell + gap - 2) for text in columns]
    top = (26 if title else 0) + max((17 * len(lines) + 6 for lines in heading), default=0)
    size = (left + widths.pop() * (cell + gap) + gap, top + len(images) * (cell + gap) + gap)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((gap, 5), clean(title), INK, ImageFont.load_default(size=15))
    for c, lines in enumerate(heading):
        for i, line in enumerate(lines):
            y = top - 17 * (len(lines) - i) - 3
            x = left + gap + c * (cell + gap) + (cell - _width(font, line)) // 2
            draw.text((max(0, x), y), line, INK, font)
    for r, row in enumerate(images):
        y = top + gap // 2 + r * (cell + gap)
        if rows:
            draw.text((gap, y + cell // 2 - 8), clean(rows[r]), INK, font)
        for c, image in enumerate(row):
            sheet.paste(_fit(image, cell), (left + gap + c * (cell + gap), y))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _fit(image: np.ndarray, cell: int) -> Image.Image:
    picture = Image.fromarray(image)
    whole = max(1, cell // max(picture.size))
    picture = picture.resize((picture.width * whole, picture.height * whole), Image.Resampling.NEAREST)
    return picture.resize((cell, cell), Image.Resampling.LANCZOS)


def _width(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str) -> int:
    return int(font.getlength(text)) + 1


def _wrap(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and _width(font, f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
