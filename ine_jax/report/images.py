"""Images for people: small encoded ones for the page, and labelled grids as one PNG."""

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
GAP, LINE = 6, 17  # pixels between images, and per line of a heading
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclasses.dataclass(frozen=True)
class Encoded:
    """An encoded image: its bytes, its `kind` (png or webp), width and height in pixels."""

    data: bytes
    kind: str
    width: int
    height: int

    @property
    def uri(self) -> str:
        """The image as a `data:` URI."""
        return f"data:image/{self.kind};base64,{base64.b64encode(self.data).decode()}"

    @property
    def file_name(self) -> str:
        """A name that depends on the content only."""
        return f"{hashlib.sha256(self.data).hexdigest()[:32]}.{self.kind}"


def encode(data: bytes) -> Encoded:
    """Encode a stored PNG for the page: unchanged up to 128 pixels, else WebP of at most 320.

    Raises:
        ValueError: the data is not a PNG.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=["PNG"])
        if max(image.size) <= SMALL:
            image.load()
            return Encoded(data, "png", *image.size)
        image = image.convert("RGB")
    except OSError as error:
        raise ValueError(f"not a PNG: {error}") from error
    image.thumbnail((LARGE, LARGE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=82)
    return Encoded(buffer.getvalue(), "webp", *image.size)


def grid(
    images: Sequence[Sequence[np.ndarray]],
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    *,
    cell: int = 96,
    title: str = "",
) -> bytes:
    """PNG bytes of a labelled grid of `images[r][c]`, uint8 [H, W, 3], each shown at `cell` pixels.

    Small images are first enlarged by a whole factor without smoothing, so that their pixels stay visible.

    Raises:
        InputError: rows differ in length, or labels do not fit.
    """
    count = len(images[0]) if images else 0
    fitting = {len(row) for row in images} == {count} and len(columns) in (0, count) and len(rows) in (0, len(images))
    if not count or not fitting:
        given = f"a grid with rows of {sorted({len(row) for row in images})} images"
        raise InputError(given, "rows of one length, one label for each row and column", "")
    font = ImageFont.load_default(size=13)
    left = max((_width(font, clean(label)) + 12 for label in rows), default=0)
    headings = [_wrap(font, clean(label), cell + GAP - 2) for label in columns]
    top = (26 if title else 0) + max((LINE * len(lines) + 6 for lines in headings), default=0)
    step = cell + GAP
    sheet = Image.new("RGB", (left + count * step + GAP, top + len(images) * step + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 5), clean(title), INK, ImageFont.load_default(size=15))
    for c, lines in enumerate(headings):
        for i, line in enumerate(lines):
            x = left + GAP + c * step + (cell - _width(font, line)) // 2
            pen.text((max(0, x), top - LINE * (len(lines) - i) - 3), line, INK, font)
    for r, row in enumerate(images):
        y = top + GAP // 2 + r * step
        if rows:
            pen.text((GAP, y + cell // 2 - 8), clean(rows[r]), INK, font)
        for c, image in enumerate(row):
            sheet.paste(_fit(image, cell), (left + GAP + c * step, y))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _fit(pixels: np.ndarray, cell: int) -> Image.Image:
    image = Image.fromarray(pixels)
    factor = max(1, cell // max(image.size))
    image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    return image.resize((cell, cell), Image.Resampling.LANCZOS)


def _width(font: Font, text: str) -> int:
    return int(font.getlength(text)) + 1


def _wrap(font: Font, text: str, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and _width(font, f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
