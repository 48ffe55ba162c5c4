"""The table of embedding formats, one module per tool."""

from ine_jax.embeddings.formats import a1111, comfyui, diffusers, plain_arrays, sdxl
from ine_jax.embeddings.formats.base import Format

# The first format that claims a file reads it, so the more particular ones come first.
FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        sdxl.SDXL,
        a1111.PT,
        a1111.SAFETENSORS,
        comfyui.COMFYUI,
        diffusers.NATIVE,
        diffusers.BIN,
        plain_arrays.NPY,
        plain_arrays.NPZ,
        plain_arrays.TENSOR,
    )
}
