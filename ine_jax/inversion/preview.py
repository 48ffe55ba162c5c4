"""What to look at after an inversion: the loss curve, and images generated from the embedding."""

import io
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from ine_jax.embeddings.embedding import Embedding
from ine_jax.errors import clean
from ine_jax.guidance.base import Texts
from ine_jax.guidance.cfg import Cfg
from ine_jax.pipeline.noise import item_noise
from ine_jax.pipeline.pipeline import Pipeline
from ine_jax.storage.atomic import write_atomic

GAP = 2  # pixels between the images of a grid
LABEL = 18  # pixels of a label above a row


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last `window` values at each place (fewer at the start), NaN left out; [n] to [n]."""
    known = np.isfinite(values)
    sums = np.cumsum(np.concatenate([[0.0], np.where(known, values, 0.0)]))
    counts = np.cumsum(np.concatenate([[0], known]))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - window, 0)
    counted = counts[last] - counts[first]
    return np.where(counted > 0, (sums[last] - sums[first]) / np.maximum(counted, 1), np.nan)


def plot_losses(path: Path, steps: np.ndarray, losses: np.ndarray, title: str) -> None:
    """Write the loss over steps as a PNG: as logged, and above that its running mean over a tenth of the run."""
    figure = Figure(figsize=(6.4, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    window = len(losses) // 10
    axes.plot(steps, losses, color="tab:blue", alpha=0.35, linewidth=0.8, label="as logged")
    if window > 1:
        label = f"mean of the last {window} values"
        axes.plot(steps, smooth(losses, window), color="tab:blue", linewidth=1.8, label=label)
    axes.set(xlabel="step", ylabel="denoising loss")
    axes.set_title(title.replace("$", r"\$"), fontsize=10)  # a name is text, never a formula
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())


def grid(rows: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Rows of uint8 images [n, H, W, 3] as one image on white, each below its label; they may differ in n and size."""
    strips = []
    for label, images in rows:
        padded = np.pad(images, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
        strips += [_label(label), np.concatenate(list(padded), axis=1)]
    width = max(strip.shape[1] for strip in strips)
    full = [np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips]
    return np.concatenate(full, axis=0)


def _label(text: str) -> np.ndarray:
    """One line of text, uint8 [LABEL, width, 3]."""
    font = ImageFont.load_default(size=12)
    line = clean(text, 100)
    image = Image.new("RGB", (int(font.getlength(line)) + 2 * GAP + 1, LABEL), "white")
    ImageDraw.Draw(image).text((GAP, 1), line, "black", font)
    return np.asarray(image)


def preview_images(
    pipe: Pipeline,
    embedding: Embedding,
    count: int = 8,
    *,
    template: str = "a photo of a {}",
    scale: float = 3.0,
    steps: int = 25,
    seed: int = 0,
) -> np.ndarray:
    """Images uint8 [count, H, W, 3] that the model generates with the embedding as prompt, one per seed.

    A token embedding fills the template; a context embedding is the whole prompt. Seeds are seed, seed + 1, ...
    """
    rows = pipe.rows(count)
    unet = pipe.parts.unet_config
    shape = (unet.sample_size, unet.sample_size, unet.in_channels)
    if embedding.space == "token":
        context = pipe.encode([template.replace("{}", embedding.token)], [embedding])
    else:
        context = np.asarray(embedding.vectors, np.float32)[None]
    spread = pipe.programs.batch_sharding()
    prompt, empty = (jax.device_put(np.repeat(c, rows, axis=0), spread) for c in (context, pipe.encode([""])))
    texts = Texts(prompt=prompt, uncond=empty)
    noise = jax.device_put(item_noise(seed, shape, rows), spread)
    tables = jax.device_put(pipe.scheduler.tables(steps), pipe.programs.replicated())
    guard = Cfg(jnp.float32(scale))
    latents = pipe.programs.sample(pipe.parts.unet_params, pipe.scheduler, tables, guard, texts, noise)
    return pipe.decode(np.asarray(latents))[:count]
