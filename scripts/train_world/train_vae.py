"""Train the small world's autoencoder: 64×64 pixels to 8×8×8 latents.

    python -m scripts.train_world.train_vae --out runs/world/vae

Loss per image: mean |x − x̂| + mean (x − x̂)² + kl_weight · mean KL(q(z|x) ‖ N(0, 1)). Interrupt and run again to
continue. Writes checkpoints, log.jsonl, samples.png (renders above their reconstructions) and params.safetensors.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ine_jax.models.vae import Vae, VaeConfig
from ine_jax.progress import Progress
from ine_jax.training import loop
from scripts.train_world import common, world

CONFIG = VaeConfig(
    sample_size=world.SIZE,
    latent_channels=8,
    block_out_channels=(16, 32, 64, 128),
    layers_per_block=1,
    norm_num_groups=4,
)


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/world/vae"))
    parser.add_argument("--steps", type=int, default=5500)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--kl-weight", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    vae = Vae(CONFIG)
    params = jax.jit(vae.init)(jax.random.key(args.seed), jnp.zeros((1, world.SIZE, world.SIZE, 3)))["params"]
    tx = common.adam(args.learning_rate, args.steps)
    sprites = world.load_sprites()

    def loss_fn(params: Any, images: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        mean, logvar = vae.apply({"params": params}, images, method="encode")
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)
        error = vae.apply({"params": params}, z, method="decode") - images
        kl = 0.5 * jnp.mean(mean**2 + jnp.exp(logvar) - 1 - logvar)
        mse = jnp.mean(error**2)
        loss = jnp.mean(jnp.abs(error)) + mse + args.kl_weight * kl
        return loss, {"loss": loss, "mse": mse, "kl": kl}

    @jax.jit
    def update(state: tuple[Any, Any], images: jax.Array, i: int) -> tuple[tuple[Any, Any], dict[str, jax.Array]]:
        params, opt = state
        key = jax.random.fold_in(jax.random.key(args.seed + 1), i)
        grads, metrics = jax.grad(loss_fn, has_aux=True)(params, common.to_signed(images), key)
        updates, opt = tx.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt), metrics

    reconstruct = jax.jit(lambda params, images: vae.apply({"params": params}, images))

    def step(state: Any, i: int) -> tuple[Any, Any]:
        rng = np.random.default_rng((args.seed, i))
        images = np.stack([world.render(world.sample_scene(rng), sprites) for _ in range(args.batch)])
        return update(state, common.shard_batch(images), i)

    def sheet(number: int, state: Any) -> None:
        images = np.stack([world.render(s, sprites) for s in world.scenes(10**6, 32)])
        decoded = common.to_uint8(reconstruct(state[0], common.to_signed(images)))
        rows = [tile for r in range(0, 32, 8) for tile in (*images[r : r + 8], *decoded[r : r + 8])]
        world.contact_sheet(rows, 8, args.out / "samples.png")

    with Progress(args.steps, "vae") as progress:
        state = loop.run(
            step,
            common.replicate((params, tx.init(params))),
            steps=args.steps,
            directory=args.out,
            save_every=500,
            config={k: str(v) for k, v in vars(args).items() if k != "out"} | {"world": world.describe()},
            log_every=100,
            progress=progress,
            on_save=sheet,
        )
    common.save_params(args.out / "params.safetensors", state[0])


if __name__ == "__main__":
    main()
