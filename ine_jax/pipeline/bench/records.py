"""What the results of all benchmarks begin with. Nothing here loads JAX: a cold start times that."""

from typing import TypedDict


class Setting(TypedDict):
    """Model, shapes, machine and versions of a benchmark."""

    schema: int
    what: str
    model: str
    batch: int
    steps: int
    latents: list[int]
    repeats: int
    dtype: str
    device: str
    machine: str
    versions: dict[str, str]
