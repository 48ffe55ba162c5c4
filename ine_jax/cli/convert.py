"""`ine convert`: an embedding to the format of another tool."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ine_jax.cli.command import Command, Outcome

Formats = Literal["native", "diffusers-bin", "a1111-pt", "a1111", "comfyui", "sdxl", "npy", "npz", "tensor"]


@dataclass(frozen=True)
class Convert(Command):
    """Convert an embedding to the format of another tool; the new file is read back and compared."""

    source: tyro.conf.Positional[str] = tyro.MISSING
    """Embedding file, whose format is detected, or a bundled name."""
    target: tyro.conf.Positional[Path] = tyro.MISSING
    """New file, or a folder for it."""
    to: Formats = tyro.MISSING
    """Format of the new file; native is diffusers' learned_embeds.safetensors with metadata."""
    token: str = ""
    """New name of the embedding."""
    space: Literal["", "token", "context"] = ""
    """Meaning of a plain array: token vectors, or a sequence out of CLIP (negative_prompt_embeds)."""
    part: Literal["", "clip_l", "clip_g"] = ""
    """Take only this tensor of an SDXL pair."""
    clip_g: Path | None = None
    """File of the vectors for SDXL's second text encoder."""

    def plan(self) -> Outcome:
        """Read and check everything that `run` reads."""
        return self._convert(dry_run=True)

    def run(self, line: Sequence[str]) -> Outcome:
        """Write the new file, and print how to use it."""
        return self._convert(dry_run=False)

    def _convert(self, dry_run: bool) -> Outcome:
        from ine_jax import embeddings

        done = embeddings.convert(
            self.source,
            self.target,
            self.to,
            token=self.token,
            space=self.space,
            part=self.part,
            clip_g=self.clip_g or "",
            dry_run=dry_run,
        )
        found, state = done.stored.embedding, "not written (dry run)" if dry_run else "read back equal"
        count, width = done.stored.vectors.shape
        about = f"{found.space} {found.token}, {count} x {width} {done.stored.vectors.dtype}"
        head = f"{self.source} ({done.source_format}) -> {done.path} ({done.target_format}): {about}, {state}"
        values = {"path": str(done.path), "from": done.source_format, "to": done.target_format, "token": found.token}
        shape = {"space": found.space, "vectors": count, "width": width, "dtype": str(done.stored.vectors.dtype)}
        return Outcome((head, *done.use, *done.notes), {**values, **shape, "use": done.use, "notes": done.notes})
