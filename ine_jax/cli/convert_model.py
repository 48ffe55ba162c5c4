"""`ine convert-model`: a model as a diffusers pipeline folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ine_jax.cli.command import Command, Outcome
from ine_jax.errors import InputError, NumericalError


@dataclass(frozen=True)
class ConvertModel(Command):
    """Write a model, with checkpoints applied, as a diffusers pipeline folder; the folder is read back and compared."""

    source: tyro.conf.Positional[str] = tyro.MISSING
    """Bundled name, pipeline folder (PyTorch or Flax) or hub id."""
    target: tyro.conf.Positional[Path] = tyro.MISSING
    """New folder."""
    unlearned: tuple[str, ...] = ()
    """Checkpoints to apply, in this order: files, folders, or owner/name[/file or folder][@revision]."""
    revision: str | None = None
    """Revision of a hub id."""
    to: Literal["diffusers", "flax"] = "diffusers"
    """diffusers: safetensors for PyTorch; flax: msgpack for diffusers before 0.40."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Precision of the written weights."""

    def plan(self) -> Outcome:
        """Apply the checkpoints in memory and list what they change."""
        return self._convert(dry_run=True)

    def run(self, line: Sequence[str]) -> Outcome:
        """Write the folder, and print how to load it."""
        return self._convert(dry_run=False)

    def _convert(self, dry_run: bool) -> Outcome:
        from ine_jax.models.checkpoints import pipeline_folder
        from ine_jax.storage.atomic import atomic_folder

        if self.target.exists() and (self.target.is_file() or any(self.target.iterdir())):
            raise InputError(f"{self.target} exists", "a new folder", "name another, or remove it")
        parts = pipeline_folder.read_pipeline(self.source, self.revision, self.dtype, unlearned=self.unlearned)
        values = {"to": self.to, "dtype": self.dtype, "changes": list(parts.changes), "path": str(self.target)}
        head = f"{parts.name} -> {self.target} ({self.to}, {self.dtype})"
        if dry_run:
            return Outcome((f"{head}: not written (dry run)", *parts.changes), values)
        with atomic_folder(self.target) as temporary:
            pipeline_folder.write_pipeline(parts, temporary, self.dtype, self.to)
            if not pipeline_folder.same_weights(parts, pipeline_folder.read_pipeline(temporary, dtype=self.dtype)):
                raise NumericalError(
                    f"{self.target} does not read back as written", "", "check the disk; write it again"
                )
        out = self.target
        pipe = "StableDiffusionPipeline" if self.to == "diffusers" else "FlaxStableDiffusionPipeline"
        use = (f"diffusers: {pipe}.from_pretrained({str(out)!r})", f"ine_jax: ine_jax.load({str(out)!r})")
        return Outcome((f"{head}: read back equal", *parts.changes, *use), {**values, "use": list(use)})
