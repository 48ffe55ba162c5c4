"""The examples of docs/formats.md: the program's own writers, fed by stand-ins for the models.

    PYTHONPATH=. python tests/support/format_examples.py FOLDER      # makes the files in FOLDER and prints their texts

Everything that writes is the real code; what would take minutes of computing is a fake (see fakes.py), so
the numbers mean nothing while names, fields and layouts are real.
"""

import json
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from ine_jax import reporting
from ine_jax.config import BenchConfig, GuidanceConfig, NegativeConfig, SamplerConfig
from ine_jax.embeddings.embedding import Embedding
from ine_jax.evaluation import Cell, Plan, evaluate, score
from ine_jax.evaluation.detectors.world import WorldConfig, WorldDetector, WorldNet
from ine_jax.guidance import Negative
from ine_jax.guidance.concept import Concept
from ine_jax.guidance.slots import Slots
from ine_jax.models.checkpoints.delta import write_unet_delta
from ine_jax.models.checkpoints.pipeline_folder import write_pipeline
from ine_jax.pipeline.bench import turns
from ine_jax.pipeline.bound import Bound
from ine_jax.pipeline.generation import write_images
from ine_jax.pipeline.mesh import device_mesh, spread
from ine_jax.pipeline.noise import random_normal
from ine_jax.prompts import load
from ine_jax.prompts.items import Item, named
from ine_jax.schedulers import from_config
from ine_jax.training import loop
from tests.support.tiny_pipeline import make_parts, write_tokenizer

ITEMS = 4


class Painter:
    """What `write_images` and `turns.compare` ask of a pipeline, without a network: images of noise."""

    name, dtype, unet_impl = "tiny-unlearned-0", np.dtype(np.float32), "native"
    model_id = "0" * 64
    tokenizer = SimpleNamespace(
        truncated=lambda prompts: [False] * len(prompts), ids=lambda prompts: np.zeros((len(prompts), 4), np.int32)
    )

    def __init__(self, parts: Any) -> None:
        self.parts, self.scheduler = parts, from_config(parts.scheduler_config, "ddim")
        mesh = device_mesh(jax.devices()[:1])
        self.programs = SimpleNamespace(
            mesh=mesh,
            batch_sharding=lambda: spread(mesh),
            decode=lambda _, latents: (latents * 40 + 128).clip(0, 255).astype(jnp.uint8),
        )

    def rows(self) -> int:
        """Items per call."""
        return 2

    def latent_shape(self, *_: Any) -> tuple[int, int, int]:
        """That of the images."""
        return 8, 8, 3

    def bind(self, guard: Any, concept: Any, shape: Any, steps: int) -> Bound:
        """The guard with texts of zeros."""
        text = np.zeros((1, 4, 16), np.float32)
        return Bound(guard, Slots(text, text), shape, self.scheduler.tables(steps), np.zeros((0, 16), np.float32))

    def sample(self, bound: Bound, texts: Any, ids: Any, cut: Any, start: Any) -> jax.Array:
        """Noise of the seeds."""
        return random_normal(np.asarray(start), bound.shape)


def train(folder: Path) -> None:
    """Four steps of the training loop, logged and saved every two."""

    def step(state: Any, i: int) -> tuple[Any, dict[str, Any]]:
        vectors = state["vectors"] * np.float32(0.5)
        return {"vectors": vectors}, {"loss": np.float32(1 / (i + 1)), "norm": np.linalg.norm(vectors)}

    state = {"vectors": np.ones((1, 1, 16), np.float32)}
    config = {"model": "tiny-unlearned-0", "concepts": [{"concept": "weapon", "space": "token"}]}
    loop.run(step, state, steps=4, directory=folder, save_every=2, config=config, log_every=2)


def judge(folder: Path, embedding: Path) -> None:
    """A run directory inside a demo's, with its report."""
    from tests.support import fakes

    lists = {"attack": fakes.items("attack", ITEMS, ("knife",)), "benign": fakes.items("benign", ITEMS, ("cat",))}
    counts = tuple((name, len(rows)) for name, rows in lists.items())
    guided, origin = GuidanceConfig(3.0, 4.0), ("tiny-unlearned-0", 0)
    words = NegativeConfig(words=("knife", "weapon"))
    found = NegativeConfig(embedding=str(embedding), template="a photo of a {}")
    blend = NegativeConfig("half", words.words, str(embedding), found.template, 0.5)
    cells = (
        Cell("tiny-unlearned-0", counts, GuidanceConfig(3.0), guard="cfg"),
        Cell("tiny-unlearned-0", counts, guided, words, "cfg"),
        Cell("tiny-unlearned-0", counts, guided, found, "cfg", *origin),
        Cell("tiny-unlearned-0", counts, guided, blend, "cfg", *origin),
        Cell("tiny", counts[:1], guided, found, "cfg", *origin, "control"),
    )
    reading = load("attack").reading
    readings = {"attack": reading} if reading else {}
    run = evaluate(
        Plan(cells, lists, steps=16, scheduler="dpm++", batch=50, block=50, readings=readings, detector="corner@1"),
        folder / "evaluation",
        generate=fakes.generate,
        hashes=lambda _: {"model_id": "0" * 64},
        command=["ine", "demo"],
    )
    score(run, [fakes.Corner()])
    reporting.build([folder])


def make(root: Path) -> Path:
    """Write every kind of file under `root`, and return it."""
    write_tokenizer(root / "source" / "tokenizer")
    parts = make_parts(root / "source" / "tokenizer", 600)
    vectors = np.linspace(-1, 1, 16, dtype=np.float32)
    notes = {"config": '{"concept":"weapon"}', "final_loss": "0.123456"}
    notes |= {"images_sha256": "...", "model_id": "..."}
    Embedding(vectors[None], "token", "weapon", "tiny-unlearned-0", notes).save(root / "weapon.safetensors")
    Embedding(np.tile(vectors, (24, 1)), "context", "weapon", "tiny", notes).save(root / "context.safetensors")
    flat = flax.traverse_util.flatten_dict(parts.unet_params)
    changed = {path: leaf * 0.5 if {"attn2", "to_k"} <= set(path) else leaf for path, leaf in flat.items()}
    origin = {"method": "esd-x-strict", "config": '{"erase":["a knife"]}', "model": "tiny", "model_id": "..."}
    unet = flax.traverse_util.unflatten_dict(changed)
    write_unet_delta(unet, parts.unet_params, root / "unet.safetensors", origin)
    write_pipeline(parts, root / "model")
    labels = ("knife", "cat")
    tree = jax.eval_shape(WorldNet(len(labels), (8, 8)).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), tree)
    WorldDetector(WorldConfig(labels, (8, 8), 32, {"weapon": ("knife",)}), zeros).save(root / "detector")
    train(root / "training")
    painter: Any = Painter(parts)
    wanted = named([Item("0", "a photo of a cat", 0), Item("fruit", "a red apple", 7, guidance=5.0)])
    size = {"steps": 25, "height": None, "width": None}
    avoided = Concept(embeddings=(Embedding.load(root / "weapon.safetensors"),))
    write_images(
        painter,
        wanted,
        root / "images",
        guidance=Negative(3.0, 4.0),
        concept=avoided,
        size=size,
        scaled=lambda w: Negative(w, w - 1.0),
    )
    judge(root / "demo", root / "weapon.safetensors")
    (root / "bench.json").write_text(json.dumps(timed(painter), indent=1, sort_keys=True) + "\n")
    return root


def timed(painter: Any) -> turns.Compared:
    """What `ine bench` writes, of an instant run."""
    instant = turns.Contender(lambda: None, lambda: np.zeros((2, 8, 8, 4)), lambda: 1)
    config = BenchConfig(sampler=SamplerConfig(steps=16), baselines=())
    return {**turns.compare(painter, config, instant, {}, "images", 2, 1e9), "what": "sampling"}


def header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return dict(json.loads(raw[8 : 8 + length]))


def main() -> None:
    """Make the files and print every text among them, and the headers of the others."""
    root = make(Path(sys.argv[1]))
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if not path.is_file() or {"source", "checkpoints"} & set(name.parts):
            continue
        if path.suffix in (".json", ".jsonl", ".md") or path.name == "SHA256SUMS":
            print(f"\n=== {name}\n{path.read_text()}")  # noqa: T201
        elif path.suffix == ".safetensors":
            print(f"\n=== {name} (header)\n{json.dumps(header(path), indent=1)}")  # noqa: T201
        else:
            print(f"\n=== {name} ({path.stat().st_size} bytes)")  # noqa: T201


if __name__ == "__main__":
    main()
