"""A random pipeline folder in exact diffusers layout, small enough for seconds on a CPU: import ``tiny_folder`` as a
fixture.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import pytest

if TYPE_CHECKING:
    from ine_jax.models.parts import ModelParts

WORDS = ("a", "photo", "of", "cat", "dog", "knife", "apple", "red", "weapon", "and", "the")
LENGTH = 24
WIDTH = 16
SIDE = 32  # pixels
CELLS = 8  # latent cells along one side

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}


def byte_letters() -> list[str]:
    """The 256 printable stand-ins of byte-level BPE."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(others))]


def write_tokenizer(folder: Path) -> int:
    """CLIP tokenizer files that know WORDS as single tokens and every other text letter by letter; returns the
    vocabulary size.
    """
    letters = byte_letters()
    tokens = letters + [f"{x}</w>" for x in letters]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            pair = f"{parts[0]} {parts[1]}"
            parts = [parts[0] + parts[1], *parts[2:]]
            if pair not in merges:
                merges.append(pair)
                tokens.append(parts[0])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH}
    specials = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    specials |= {"pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | specials), "utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(specials), "utf-8")
    return len(vocabulary)


def text_config(vocabulary: int) -> dict:
    """config.json of a two-layer text encoder."""
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": LENGTH,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }


UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": CELLS,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"],  # one level: tests/models has those that halve and double the size
    "up_block_types": ["CrossAttnUpBlock2D"],
    "block_out_channels": [32],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": WIDTH,
    "norm_num_groups": 32,  # diffusers' Flax UNet knows no other number
}
VAE = {
    "_class_name": "AutoencoderKL",
    "sample_size": SIDE,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [8, 8, 8],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "scaling_factor": 0.5,
}


def random_like(tree: object, seed: int) -> dict:
    """Parameters of the tree's shapes, scaled so that activations neither vanish nor grow: norms near 1, kernels by
    fan-in.
    """
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        values = rng.standard_normal(leaf.shape).astype(np.float32)
        name = path[-1].key
        if name == "scale":
            return (1 + 0.1 * values).astype(np.float32)
        if name == "kernel":
            return (values / np.sqrt(np.prod(leaf.shape[:-1]))).astype(np.float32)
        return ((0.5 if name == "embedding" else 0.05) * values).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, tree)


def make_parts(tokenizer_dir: Path, vocabulary: int, seed: int = 0) -> "ModelParts":
    """Random ModelParts over a written tokenizer."""
    from ine_jax.models.clip import ClipText, ClipTextConfig
    from ine_jax.models.parts import ModelParts
    from ine_jax.models.unet import UNet, UNetConfig
    from ine_jax.models.vae import Vae, VaeConfig

    key = jax.random.key(0)
    text, unet, vae = (
        ClipTextConfig.from_dict(text_config(vocabulary)),
        UNetConfig.from_dict(UNET),
        VaeConfig.from_dict(VAE),
    )
    latents, context = jnp.zeros((1, CELLS, CELLS, 4)), jnp.zeros((1, LENGTH, WIDTH))
    shapes = (
        jax.eval_shape(ClipText(text).init, key, jnp.zeros((1, LENGTH), jnp.int32))["params"],
        jax.eval_shape(UNet(unet).init, key, latents, jnp.zeros((1,)), context)["params"],
        jax.eval_shape(Vae(vae).init, key, jnp.zeros((1, SIDE, SIDE, 3)))["params"],
    )
    drawn = [random_like(shape, seed + i) for i, shape in enumerate(shapes)]
    return ModelParts(
        name="random",
        path=tokenizer_dir.parent,
        text_config=text,
        text_params=drawn[0],
        unet_config=unet,
        unet_params=drawn[1],
        vae_config=vae,
        vae_params=drawn[2],
        scheduler_config=SCHEDULER,
        tokenizer_dir=tokenizer_dir,
        hashes={},
    )


def write_tiny(folder: Path, seed: int = 0) -> Path:
    """Write the whole random pipeline; returns its folder."""
    from ine_jax.models.checkpoints.pipeline_folder import write_pipeline

    vocabulary = write_tokenizer(folder / "source" / "tokenizer")
    parts = make_parts(folder / "source" / "tokenizer", vocabulary, seed)
    write_pipeline(parts, folder / "pipeline", dtype="float32")
    return folder / "pipeline"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random pipeline, made once per test session."""
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small CLIP tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    write_tokenizer(folder)
    return folder
