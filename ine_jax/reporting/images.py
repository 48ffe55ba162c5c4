"""Small encoded images for the page."""

import base64
import dataclasses
import hashlib
import io

from PIL import Image

from ine_jax.storage.images import decode

SMALL = 128  # pixels; up to here an image is kept as it is, larger ones become WebP of at most LARGE pixels
LARGE = 320


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
    """Encode a stored PNG for the page: unchanged up to 128 pixels, else WebP of at most 320."""
    try:
        image = decode(data, ("PNG",))
    except ValueError as error:
        raise ValueError(f"not a PNG: {error}") from error
    if max(image.size) <= SMALL:
        return Encoded(data, "png", *image.size)
    image.thumbnail((LARGE, LARGE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=82)
    return Encoded(buffer.getvalue(), "webp", *image.size)
