"""Train the small world's UNet on latents of rendered scenes, its text encoder frozen, and write the pipeline folder.

    python -m scripts.train_world.train_unet --vae runs/world/vae --out runs/world/unet

ε-prediction on Stable Diffusion's noise schedule, 10 % empty captions for classifier-free guidance, an exponential
moving average of the weights. Interrupt and run again to continue. Writes checkpoints, log.jsonl, samples.png and
pipeline/ (diffusers layout, float16) with the averaged weights.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ine_jax import schedulers
from ine_jax.guidance import Cfg, Texts
from ine_jax.models.checkpoints.pipeline_folder import write_pipeline
from ine_jax.models.clip import ClipText
from ine_jax.models.parts import ModelParts
from ine_jax.models.text import Tokenizer
from ine_jax.models.unet import UNet, UNetConfig
from ine_jax.models.vae import Vae, VaeConfig
from ine_jax.pipeline.sampling import sample
from ine_jax.progress import Progress
from ine_jax.training import loop
from scripts.train_world import common, text, train_vae, world

CONFIG = UNetConfig(
    sample_size=8,
    in_channels=8,
    out_channels=8,
    down_block_types=("CrossAttnDownBlock2D",) * 2,
    up_block_types=("CrossAttnUpBlock2D",) * 2,
    block_out_channels=(64, 128),
    layers_per_block=1,
    attention_head_dim=4,
    cross_attention_dim=128,
)
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "prediction_type": "epsilon",
}
TEXT_SEED = 0
PAIR_SHARE = 0.5  # scenes of two objects are the harder half
SHEET_PROMPTS = ("a photo of a cat", "a photo of a knife", "a cat and a gun", "a weapon", "", "a pizza and a car",
                 "a photo of a hatchet on a pink background", "knife, bomb, axe, pistol")  # fmt: skip


def encode_scenes(vae_folder: Path, count: int, seed: int) -> tuple[list[world.Scene], np.ndarray, np.ndarray, Any]:
    """Scenes with the mean and log-variance of their latents; also the VAE's parameters."""
    params = common.load_params(vae_folder / "params.safetensors")
    vae, sprites, scenes = Vae(train_vae.CONFIG), world.load_sprites(), world.scenes(seed, count, pair_share=PAIR_SHARE)
    encode = jax.jit(lambda images: vae.apply({"params": params}, images, method="encode"))
    parts = []
    for i in range(0, count, 100):
        images = np.stack([world.render(s, sprites) for s in scenes[i : i + 100]])
        parts.append(jax.device_get(encode(common.to_signed(images))))
    mean, logvar = (np.concatenate([p[k] for p in parts]) for k in (0, 1))
    return scenes, mean, logvar, params


class World:
    """Everything that stays fixed while the UNet learns."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.folder = args.out / "pipeline"
        size = text.write_tokenizer(self.folder / "tokenizer")
        self.text_config, self.text_params = text.random_encoder(size, TEXT_SEED)
        self.tokenizer = Tokenizer.from_dir(self.folder / "tokenizer", text.MAX_LENGTH)
        self.scenes, self.mean, self.logvar, self.vae_params = encode_scenes(args.vae, args.scenes, args.seed)
        factor = 1.0 / float(np.sqrt(np.mean(self.mean**2) + np.mean(np.exp(self.logvar))))
        self.vae_config = VaeConfig(**{**vars(train_vae.CONFIG), "scaling_factor": round(factor, 5)})
        self.ids = {"": self.tokenizer.ids([""])[0]}

    def captions(self, indices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Token ids of newly sampled captions, one in ten empty."""
        texts = [world.caption(self.scenes[i], rng) if rng.random() >= 0.1 else "" for i in indices]
        missing = [t for t in dict.fromkeys(texts) if t not in self.ids]
        if missing:
            self.ids.update(zip(missing, self.tokenizer.ids(missing), strict=True))
        return np.stack([self.ids[t] for t in texts])

    def parts(self, unet_params: Any) -> ModelParts:
        """The pipeline with these UNet weights."""
        return ModelParts(
            name="tiny",
            path=self.folder,
            text_config=self.text_config,
            text_params=self.text_params,
            unet_config=CONFIG,
            unet_params=unet_params,
            vae_config=self.vae_config,
            vae_params=self.vae_params,
            scheduler_config=SCHEDULER,
            tokenizer_dir=self.folder / "tokenizer",
            hashes={},
        )


def make_update(w: World, args: argparse.Namespace, tx: optax.GradientTransformation) -> Any:
    """One jitted training step on (parameters, average, optimiser state)."""
    unet, clip = UNet(CONFIG), ClipText(w.text_config)
    alphas = jnp.asarray(schedulers.alphas_cumprod(SCHEDULER), jnp.float32)

    def loss_fn(params: Any, noisy: Any, t: Any, context: Any, noise: Any) -> jax.Array:
        return jnp.mean((unet.apply({"params": params}, noisy, t, context) - noise) ** 2)

    @jax.jit
    def update(state: Any, mean: Any, logvar: Any, ids: Any, i: Any) -> Any:
        params, average, opt = state
        keys = jax.random.split(jax.random.fold_in(jax.random.key(args.seed + 2), i), 3)
        z = (mean + jnp.exp(0.5 * logvar) * jax.random.normal(keys[0], mean.shape)) * w.vae_config.scaling_factor
        noise = jax.random.normal(keys[1], z.shape)
        t = jax.random.randint(keys[2], (z.shape[0],), 0, 1000)
        context = clip.apply({"params": w.text_params}, ids).hidden
        noisy = schedulers.add_noise(z, noise, t, alphas)
        loss, grads = jax.value_and_grad(loss_fn)(params, noisy, t, context, noise)
        updates, opt = tx.update(grads, opt, params)
        params = optax.apply_updates(params, updates)
        decay = jnp.minimum(args.ema, (1.0 + i) / (10.0 + i))
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
        return (params, average, opt), {"loss": loss}

    return update


def make_sheet(w: World, out: Path) -> Any:
    """A function that generates eight images for each of eight prompts with the averaged weights."""
    unet, clip, vae = UNet(CONFIG), ClipText(w.text_config), Vae(w.vae_config)
    scheduler = schedulers.from_config(SCHEDULER, "dpm++")
    tables = scheduler.tables(15)

    @jax.jit
    def generate(params: Any, prompt: Any, uncond: Any, noise: Any) -> Any:
        texts = Texts(prompt=prompt, uncond=uncond)

        def denoise(x: Any, t: Any, c: Any) -> Any:
            return unet.apply({"params": params}, x, t, c)

        latents = sample(denoise, scheduler, tables, Cfg(jnp.float32(4.0)), texts, noise)
        return vae.apply({"params": w.vae_params}, latents / w.vae_config.scaling_factor, method="decode")

    def sheet(step: int, state: Any) -> None:
        prompts = [p for p in SHEET_PROMPTS for _ in range(8)]
        context = clip.apply({"params": w.text_params}, w.tokenizer.ids([*prompts, ""])).hidden
        noise = jax.random.normal(jax.random.key(7), (64, 8, 8, CONFIG.in_channels))
        images = generate(state[1], context[:-1], jnp.broadcast_to(context[-1:], context[:-1].shape), noise)
        world.contact_sheet(list(common.to_uint8(images)), 8, out / "samples.png")

    return sheet


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, default=Path("runs/world/vae"))
    parser.add_argument("--out", type=Path, default=Path("runs/world/unet"))
    parser.add_argument("--scenes", type=int, default=30_000)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    w = World(args)
    unet = UNet(CONFIG)
    zeros = jnp.zeros((1, 8, 8, 8)), jnp.zeros((1,)), jnp.zeros((1, text.MAX_LENGTH, 128))
    params = jax.jit(unet.init)(jax.random.key(args.seed + 1), *zeros)["params"]
    tx = common.adam(args.learning_rate, args.steps, warmup=300)
    update = make_update(w, args, tx)

    def step(state: Any, i: int) -> Any:
        rng = np.random.default_rng((args.seed, 1, i))
        picked = rng.integers(len(w.scenes), size=args.batch)
        return update(state, w.mean[picked], w.logvar[picked], w.captions(picked, rng), i)

    with Progress(args.steps, "unet") as progress:
        state = loop.run(
            step,
            (params, params, tx.init(params)),
            steps=args.steps,
            directory=args.out,
            save_every=1000,
            config={k: str(v) for k, v in vars(args).items() if k not in ("out", "vae")} | {"world": world.describe()},
            log_every=100,
            progress=progress,
            on_save=make_sheet(w, args.out),
        )
    write_pipeline(w.parts(jax.device_get(state[1])), w.folder)


if __name__ == "__main__":
    main()
