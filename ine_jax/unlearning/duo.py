"""Direct Unlearning Optimization (DUO, arXiv 2407.21035, NeurIPS 2024): prefer a safe image to its unsafe twin.

With l_θ(x) = mean (ε_θ(x_t, t, ∅) - ε)² and Δ(x) = l_θ(x) - l_0(x), where 0 is the model without its adapters,

    L = -log σ(-β (Δ(x⁺) - Δ(x⁻))) + λ mean (ε_θ(z_T, T, ∅) - ε_0(z_T, T, ∅))²

for a safe image x⁺ and its unsafe twin x⁻ (`pairs`). Both have one noise ε and each its own timestep; the second term,
output preservation, is at the last timestep T with z_T = ε. The text is empty throughout, so no word is unlearned but
what an image shows. Trained are adapters of the self-attention (to_q, to_k, to_v, to_out), by AdamW on a clipped
gradient; rate and λ follow β (`DuoConfig`), as in the authors' `unlearn-sd.py` (method "dpo").

Written into the directory: pytorch_lora_weights.safetensors (diffusers' keys, scale 1), the pairs as PNGs, log.jsonl,
timing.jsonl, config.json, checkpoints/, and the hashes of all.
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Float, Int, UInt32

from ine_jax.config import DuoConfig
from ine_jax.errors import InputError
from ine_jax.models.trees import Path as Place
from ine_jax.models.unet import UNetConfig
from ine_jax.pipeline.mesh import across, platform_of
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.pipeline.programs import native_unet
from ine_jax.schedulers import NoiseConfig, add_noise, alphas_cumprod, target
from ine_jax.training import loop
from ine_jax.training.checkpoint import content_hash
from ine_jax.training.rows import Share, normal_rows
from ine_jax.training.step import Metrics
from ine_jax.types import Array, Latents, Params, PerItem
from ine_jax.unlearning.adapters import Adapters, adapted, fresh, kernels, with_adapters, write_adapters
from ine_jax.unlearning.pairs import Posteriors, Shows, pairs_of, posteriors, store
from ine_jax.unlearning.result import Result, origin_of, write_file
from ine_jax.unlearning.run import Unconstrained, binding, optimize

WEIGHTS = "pytorch_lora_weights.safetensors"
IDLE_FIELDS = ("save_every", "unsafe_images", "safe_images")


class Data(NamedTuple):
    """What a step samples from."""

    safe: Posteriors
    unsafe: Posteriors
    empty: Float[Array, "1 token dim"]  # context of the empty prompt
    seed: UInt32[Array, ""]
    beta: Float[Array, ""]
    weight: Float[Array, ""]  # λ


class Rows(NamedTuple):
    """Rows of one network call: the safe images, the unsafe ones, and pure noise at the last timestep."""

    latents: Latents
    timesteps: PerItem
    wanted: Latents  # of the network; without a meaning for the last third


def self_attention(path: Place) -> bool:
    """Whether a layer belongs to a self-attention: to_q, to_k, to_v or to_out."""
    return "attn1" in path


def unlearn(
    pipe: Pipeline,
    config: DuoConfig,
    directory: Path | str,
    progress: loop.Progress | None = None,
    shows: Sequence[Shows] = (),
) -> Result:
    """Make the pairs, train the adapters, write them, and return the result; `pipe` itself stays as it is.

    Args:
        directory: continued where it already holds a part of this very run.
        shows: the detectors that check the pairs, those of `config.detectors`.

    Raises:
        InputError: prompts, folders or the directory do not fit, or no pair passes.
        NumericalError: the loss stayed non-finite.
        Interrupted: asked to stop; calling again continues.
    """
    folder, base, origin = Path(directory), pipe.parts.unet_params, origin_of(pipe)
    if not (config.erase or config.unsafe_images):
        raise InputError("duo.erase: empty", "at least one prompt, or folders of pairs", "name what to erase")
    pairs = functools.cache(lambda: pairs_of(pipe, config, shows))
    if config.unsafe_images:
        origin["pairs_sha256"] = content_hash({"unsafe": pairs().unsafe, "safe": pairs().safe})
    start = fresh(kernels(base, self_attention), config.rank, config.seed, "gaussian")

    def data() -> Data:
        sides, empty = [posteriors(pipe, side) for side in (pairs().safe, pairs().unsafe)], pipe.encode([""])
        numbers = jnp.uint32(config.seed), jnp.float32(config.beta), jnp.float32(config.preserve_weight)
        return Data(sides[0], sides[1], jnp.asarray(empty), *numbers)

    def finish(found: Adapters) -> Result:
        notes = {"method": "duo", "config": dataclasses.asdict(config), "pairs": pairs().counts, **origin}

        def write(path: Path, metadata: dict[str, str]) -> list[Path]:
            write_adapters(path, found, "diffusers", config.rank, metadata)
            return store(pairs(), folder / "pairs")

        return write_file(with_adapters(base, found), folder / WEIGHTS, notes, write)

    bound = {**origin, "duo": binding(config, IDLE_FIELDS)}
    return optimize(duo_objective(pipe, config), start, base, data, config, folder, bound, progress, finish)


def preference(safe: Float[Array, "pair"], unsafe: Float[Array, "pair"], beta: float | Array) -> Float[Array, "pair"]:
    """-log σ(-β (Δ(x⁺) - Δ(x⁻))) of the changes Δ of both sides' denoising losses."""
    return -jax.nn.log_sigmoid(-beta * (safe - unsafe))


@dataclass(frozen=True)
class DuoObjective(Unconstrained):
    """DUO's loss. Runs over models of one shape share its compiled step, whatever their pairs, β and seed are."""

    unet: UNetConfig
    noise: NoiseConfig
    scaling_factor: float
    dtype: DTypeLike
    mesh: Mesh
    batch: int
    timesteps: tuple[int, int]  # lowest and highest of the preference
    weight_decay: float
    clip: float

    def sample(self, data: Data, i: Array | int, share: Share) -> Rows:
        """The rows of step `i` that lie in `share`; a pure function of (seed, i)."""
        keys = jax.random.split(jax.random.fold_in(jax.random.key(data.seed), i), 5)
        numbers, shape = share.rows(self.batch)[0], data.safe.mean.shape[1:]
        which = jax.random.randint(keys[0], (self.batch,), 0, data.safe.mean.shape[0])[numbers]
        noise = normal_rows(keys[1], numbers, shape)
        low, high = self.timesteps
        both = [jax.random.randint(key, (self.batch,), low, high + 1)[numbers] for key in jax.random.split(keys[2])]
        clean = [
            self.scaling_factor
            * (side.mean[which] + jnp.exp(0.5 * side.logvar[which]) * normal_rows(key, numbers, shape))
            for side, key in ((data.safe, keys[3]), (data.unsafe, keys[4]))
        ]
        times, images = jnp.concatenate(both), jnp.concatenate(clean)
        alphas, twice = alphas_cumprod(self.noise), jnp.concatenate([noise, noise])
        noisy = add_noise(images, twice, times, alphas)
        wanted = target(self.noise.prediction_type, images, twice, times, alphas)
        last = jnp.full_like(which, self.noise.train_steps - 1)
        return Rows(
            jnp.concatenate([noisy, noise]),
            jnp.concatenate([times, last]).astype(jnp.float32),
            jnp.concatenate([wanted, noise]),
        )

    def loss(
        self, adapters: Adapters, base: Params, data: Data, i: Int[Array, ""], share: Share
    ) -> tuple[Array, Metrics]:
        """What the pairs in `share` add to the mean of L.

        Both networks see the same rows, so each is called once.
        """
        rows, real = self.sample(data, i, share), share.rows(self.batch)[1]
        unet = native_unet(self.unet, self.dtype, platform_of(self.mesh))
        context = jnp.broadcast_to(data.empty, (len(rows.latents), *data.empty.shape[1:]))
        inputs = rows.latents, rows.timesteps, context
        original = jax.lax.stop_gradient(unet(base, *inputs))
        answer = adapted(unet, adapters)(base, *inputs)

        def error(wanted: Array, found: Array) -> Array:
            return jnp.mean(jnp.square(found - wanted), axis=(1, 2, 3))

        change = error(rows.wanted, answer) - error(rows.wanted, original)
        safe, unsafe, _ = jnp.split(change, 3)
        kept = jnp.split(error(original, answer), 3)[2]
        each = {"preference": preference(safe, unsafe, data.beta), "preserve": kept, "safe": safe, "unsafe": unsafe}
        metrics = {name: jnp.where(real, value, 0.0).sum() / self.batch for name, value in each.items()}
        total = metrics["preference"] + data.weight * metrics["preserve"]
        return total, {"loss": total, **metrics}

    def factor(self) -> optax.Schedule:
        """The rate is constant."""
        return optax.constant_schedule(1.0)

    def rule(self, rate: Float[Array, ""]) -> optax.GradientTransformation:
        """AdamW on a clipped gradient."""
        return optax.chain(optax.clip_by_global_norm(self.clip), optax.adamw(rate, weight_decay=self.weight_decay))


def duo_objective(pipe: Pipeline, config: DuoConfig) -> DuoObjective:
    """The objective of these settings on this model."""
    return DuoObjective(
        unet=pipe.parts.unet_config,
        noise=pipe.scheduler.noise,
        scaling_factor=pipe.parts.vae_config.scaling_factor,
        dtype=pipe.dtype,
        mesh=across(pipe.programs.mesh),
        batch=config.batch,
        timesteps=(config.min_timestep, config.max_timestep),
        weight_decay=config.weight_decay,
        clip=config.clip,
    )
