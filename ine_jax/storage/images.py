"""Image files as arrays: the untrusted images of a concept, and the PNGs that we write.

Only the first frame of PNG, JPEG and WebP is decoded, upright, after files and pixels are capped.
"""

import io
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from ine_jax.errors import InputError
from ine_jax.storage import untrusted

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
FORMATS = ("PNG", "JPEG", "WEBP")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 10**6
MAX_IMAGES = 10_000


def image_files(folder: str | Path, most: int = MAX_IMAGES) -> list[Path]:
    """List the 1 to `most` image files of `folder` by name; InputError for any other number."""
    folder = Path(folder)
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(f"{folder}: {state}", "a folder of PNG, JPEG or WebP images", "check the path")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not 1 <= len(files) <= most:
        given = f"{folder}: {len(files) or 'no'} images"
        raise InputError(given, f"1 to {most} PNG, JPEG or WebP files", "check the folder")
    return files


def readable_images(folder: str | Path) -> list[Path]:
    """List the image files of `folder`, each decoded once; InputError for one that cannot be read."""
    files = image_files(folder)
    for path in files:
        read_image(path)
    return files


def read_images(folder: str | Path, height: int, width: int) -> UInt8[np.ndarray, "n h w 3"]:
    """Return the images of `folder` in the order of their names, each as `read_image`."""
    return np.stack([read_image(path, height, width) for path in image_files(folder)])


def read_image(path: Path, height: int | None = None, width: int | None = None) -> np.ndarray:
    """Return one image as uint8 [height, width, 3]; InputError if it is too large or cannot be decoded.

    One of another shape is cropped at the centre to the wanted aspect and resized (bicubic).
    """
    try:
        upright = decode(untrusted.read(path, MAX_BYTES, _rejected))
    except ValueError as error:
        raise _rejected(path, str(error)) from error
    if height is not None and width is not None and upright.size != (width, height):
        upright = ImageOps.fit(upright, (width, height), method=Image.Resampling.BICUBIC)
    return np.asarray(upright, dtype=np.uint8)


def complete(path: Path) -> bool:
    """Return whether the file is an image that decodes to its end."""
    try:
        read_image(path)
    except InputError:
        return False
    return True


def decode(data: bytes, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Return the first frame of an encoded image, upright, as RGB; ValueError if that is not possible or too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=formats) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"{image.width} x {image.height} pixels")
                return ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError as error:
        raise ValueError("not an image that can be read") from error
    except Exception as error:  # of decoders and of their readers of metadata: not one family
        raise ValueError(str(error) or type(error).__name__) from error


def _rejected(path: Path, reason: str) -> InputError:
    allowed = f"PNG, JPEG or WebP up to {MAX_BYTES // 2**20} MiB and {MAX_PIXELS // 10**6} megapixels"
    return InputError(f"{path}: {reason}", allowed, "remove, convert or shrink the image")


def png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Return PNG bytes, the same for the same pixels."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
