"""`ine generate`: prompts to images."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from ine_jax.cli.command import Command, Flat, Outcome, sources
from ine_jax.config import GenerateConfig


@dataclass(frozen=True)
class Generate(Command):
    """Generate images from prompts under a guard, as PNG files with a metadata.jsonl."""

    config: Annotated[GenerateConfig, Flat] = field(default_factory=GenerateConfig)

    def plan(self) -> Outcome:
        """Read and check everything that `run` reads, and count the images."""
        from ine_jax.pipeline import generation

        work = sources([self.config.model], self.config.unlearned)
        asked = generation.prompt_list(self.config)
        command = self
        if not work:  # nothing to download
            out = str(generation.prepare(self.config).out)
            command = dataclasses.replace(self, config=dataclasses.replace(self.config, out=out))
        work |= {"read": asked.reading.line()} if asked.reading else {}
        return command.planned(**work, images=len(asked.items) * self.config.per_prompt)

    def run(self, line: Sequence[str]) -> Outcome:
        """Generate the images that the folder does not hold yet."""
        from ine_jax.pipeline import from_config, generation
        from ine_jax.progress import Progress

        total = len(generation.wanted_items(self.config))
        with Progress(total, "images", unit="images", process=from_config.process_index()) as progress:
            done = generation.generate(self.config, progress)
        lines = [f"{done.out}: {done.made} images generated, {done.found} already complete"]
        if done.truncated:
            lines.append(f"{done.truncated} prompts exceed the length of the text encoder and were truncated")
        return Outcome(tuple(lines), dataclasses.asdict(done))
