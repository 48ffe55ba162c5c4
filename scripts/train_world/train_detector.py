"""Train the small world's detector: which of its objects does an image show?

    python -m scripts.train_world.train_detector --vae runs/world/vae --out runs/world/detector

Multi-label cross-entropy on renders and on their reconstructions from noisy latents, blurred and noised at random, so
that it also works on images of a diffusion model. Writes config.json, model.safetensors and report.json with the
accuracy on held-out renders (every label right at threshold 0.5; weapon or not).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ine_jax.evaluation.detectors.world import WorldConfig, WorldDetector, WorldNet
from ine_jax.models.vae import Vae
from ine_jax.progress import Progress
from ine_jax.training import loop
from scripts.train_world import common, train_vae, world

LABELS = tuple(t.name for t in world.THINGS)
GROUPS = {g: tuple(t.name for t in world.THINGS if t.group == g) for g in ("animal", "food", "thing", "weapon")}
CONFIG = WorldConfig(labels=LABELS, channels=(16, 32, 64, 96), image_size=world.SIZE, groups=GROUPS)
HELD_OUT_SEED = 10**7


def labelled(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Renders and their labels [count, 22] in {0, 1}."""
    sprites, scenes = world.load_sprites(), world.scenes(seed, count, pair_share=0.5)
    targets = np.array([[name in s.objects for name in LABELS] for s in scenes], np.float32)
    return np.stack([world.render(s, sprites) for s in scenes]), targets


def reconstruct(vae_folder: Path, images: np.ndarray, seed: int) -> np.ndarray:
    """Decode the images' latents after adding noise of random strength up to half their spread."""
    vae, params = Vae(train_vae.CONFIG), common.load_params(vae_folder / "params.safetensors")

    @jax.jit
    def once(batch: Any, key: Any) -> Any:
        mean, _ = vae.apply({"params": params}, common.to_signed(batch), method="encode")
        keys = jax.random.split(key)
        strength = 0.5 * jnp.std(mean) * jax.random.uniform(keys[0], (len(batch), 1, 1, 1))
        z = mean + strength * jax.random.normal(keys[1], mean.shape)
        return vae.apply({"params": params}, z, method="decode")

    key = jax.random.key(seed)
    parts = [once(images[i : i + 100], jax.random.fold_in(key, i)) for i in range(0, len(images), 100)]
    return common.to_uint8(np.concatenate([np.asarray(p) for p in parts]))


def degrade(images: jax.Array, key: jax.Array) -> jax.Array:
    """Random brightness, blur (half of the images) and pixel noise on signed images [batch, 64, 64, 3]."""
    keys = jax.random.split(key, 4)
    shape = (images.shape[0], 1, 1, 1)
    soft = jax.image.resize(images, (images.shape[0], 24, 24, 3), "linear", antialias=True)
    soft = jax.image.resize(soft, images.shape, "cubic")
    images = jnp.where(jax.random.bernoulli(keys[0], 0.5, shape), soft, images)
    images = images + 0.15 * jax.random.normal(keys[1], (images.shape[0], 1, 1, 3))
    return images + 0.1 * jax.random.uniform(keys[2], shape) * jax.random.normal(keys[3], images.shape)


def accuracy(detector: WorldDetector, images: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Shares of images with every label right, and with the weapon question right."""
    scores = np.array([[v.labels[name] for name in LABELS] for v in detector.detect(images)])  # type: ignore[union-attr]
    shown, weapon = scores >= 0.5, [LABELS.index(name) for name in GROUPS["weapon"]]
    exact = (shown == (targets > 0)).all(axis=1)
    armed = shown[:, weapon].any(axis=1) == (targets[:, weapon] > 0).any(axis=1)
    return {"n": len(images), "exact": float(exact.mean()), "weapon": float(armed.mean())}


def main() -> None:
    """Train from the command line and evaluate on held-out renders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, default=Path("runs/world/vae"))
    parser.add_argument("--out", type=Path, default=Path("runs/world/detector"))
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    images, targets = labelled(args.seed + 5, 12_000)
    images[:6000] = reconstruct(args.vae, images[:6000], args.seed)
    net = WorldNet(len(LABELS), CONFIG.channels)
    params = net.init(jax.random.key(args.seed), jnp.zeros((1, world.SIZE, world.SIZE, 3)))["params"]
    tx = common.adam(args.learning_rate, args.steps)

    def loss_fn(params: Any, images: Any, targets: Any, key: Any) -> jax.Array:
        logits = net.apply({"params": params}, images, train=True, rngs={"dropout": key})
        return optax.sigmoid_binary_cross_entropy(logits, targets).sum(axis=-1).mean()

    @jax.jit
    def update(state: Any, images: Any, targets: Any, i: Any) -> Any:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(args.seed + 1), i))
        signed = degrade(common.to_signed(images), keys[0])
        loss, grads = jax.value_and_grad(loss_fn)(state[0], signed, targets, keys[1])
        updates, opt = tx.update(grads, state[1], state[0])
        return (optax.apply_updates(state[0], updates), opt), {"loss": loss}

    def step(state: Any, i: int) -> Any:
        picked = np.random.default_rng((args.seed, i)).integers(len(images), size=args.batch)
        return update(state, images[picked], targets[picked], i)

    config = {k: v for k, v in vars(args).items() if k not in ("out", "vae")} | {"world": world.describe()}
    with Progress(args.steps, "detector") as progress:
        state = loop.run(
            step, (params, tx.init(params)), steps=args.steps, directory=args.out / "train", save_every=300,
            config=config, log_every=50, progress=progress,
        )  # fmt: skip
    detector = WorldDetector(CONFIG, jax.device_get(state[0]))
    detector.save(args.out)
    held, truth = labelled(HELD_OUT_SEED, 4000)
    report = {"renders": accuracy(detector, held, truth)}
    report["reconstructions"] = accuracy(detector, reconstruct(args.vae, held[:1000], 9), truth[:1000])
    (args.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
