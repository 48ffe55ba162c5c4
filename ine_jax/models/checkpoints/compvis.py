"""Names of the original Stable Diffusion release (CompVis, Stability AI) ↔ names of diffusers.

One file holds all parts: `model.diffusion_model.*` (UNet), `first_stage_model.*` (autoencoder) and
`cond_stage_model.*` (text encoder: transformers' CLIP in 1.x, OpenCLIP in 2.x). Each name of diffusers becomes its
original name by rules; the names of a network follow from the shapes that the network declares.

| part        | diffusers                                  | original                                       |
|-------------|--------------------------------------------|------------------------------------------------|
| UNet        | `down_blocks.i.resnets.j`                | `input_blocks.{1 + i(L+1) + j}.0`            |
|             | `down_blocks.i.downsamplers.0.conv`      | `input_blocks.{(i+1)(L+1)}.0.op`             |
|             | `mid_block.{resnets.0, attentions.0, resnets.1}` | `middle_block.{0, 1, 2}`             |
|             | `up_blocks.i.resnets.j`                  | `output_blocks.{i(L+1) + j}.0`               |
| autoencoder | `decoder.up_blocks.i.resnets.j`          | `decoder.up.{N-1-i}.block.j`                 |
| OpenCLIP    | `encoder.layers.i.self_attn.q_proj`      | first third of `resblocks.i.attn.in_proj`    |

L is `layers_per_block`, N the number of levels; attentions are `.1`, upsamplers come after them.
"""

import re

from ine_jax.models.checkpoints import names
from ine_jax.models.checkpoints.tensors import State, Tensor
from ine_jax.models.clip import ClipTextConfig
from ine_jax.models.unet import UNetConfig
from ine_jax.models.vae import VaeConfig

Rules = tuple[tuple[str, str], ...]

OPEN_CLIP = ("transformer.resblocks.", "token_embedding.weight", "positional_embedding", "ln_final.")
# Constants of the training schedule, averages beside the weights, CLIP's other half, losses.
_IGNORED = re.compile(
    r"model_ema\..*|(betas|alphas_cumprod.*|(sqrt|log)_.*|posterior_.*|lvlb_weights|logvar|scale_factor)"
    r"|first_stage_model\.(loss|model_ema)\..*|cond_stage_model\.(model\.)?(logit_scale|text_projection|attn_mask)"
    r"|cond_stage_model\.logit_scale"
)
_UNET_ENDS: Rules = (
    (r"conv_in", "input_blocks.0.0"),
    (r"time_embedding\.linear_1", "time_embed.0"),
    (r"time_embedding\.linear_2", "time_embed.2"),
    (r"conv_norm_out", "out.0"),
    (r"conv_out", "out.2"),
    (r"mid_block\.attentions\.0", "middle_block.1"),
)
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_BLOCK = re.compile(r"(down_blocks|up_blocks)\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)")
_MID = re.compile(r"mid_block\.resnets\.(\d+)\.(.*)")
_VAE: Rules = (
    (r"down_blocks\.(\d+)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d+)\.resnets", r"up.\1.block"),
    (r"up_blocks\.(\d+)\.upsamplers\.0", r"up.\1.upsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
    (r"group_norm", "norm"),
    (r"to_out\.0", "proj_out"),
    (r"to_([qkv])\b", r"\1"),
)
_OPEN_CLIP: Rules = (
    (r"text_model\.embeddings\.token_embedding", "token_embedding"),
    (r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"text_model\.final_layer_norm", "ln_final"),
    (r"text_model\.encoder\.layers", "transformer.resblocks"),
    (r"layer_norm([12])", r"ln_\1"),
    (r"self_attn\.out_proj", "attn.out_proj"),
    (r"self_attn\.([qkv])_proj\.", r"attn.in_proj_\1."),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
)
_RESBLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")
_THIRDS = re.compile(r"(.*\.in_proj_)(weight|bias)")


def ignored(key: str) -> bool:
    """Whether a one-file checkpoint's key holds no weight of the three parts."""
    return _IGNORED.fullmatch(key) is not None


def original_name(name: str, config: names.ModelConfig) -> str:
    """The original name, without its part's prefix, of what diffusers (transformers) calls `name`."""
    match config:
        case UNetConfig():
            return _unet_name(name, config)
        case VaeConfig():
            top = len(config.block_out_channels) - 1
            name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up_blocks.{top - int(found[1])}", name)
            return _apply(_VAE, name)
        case ClipTextConfig():
            return _apply(_OPEN_CLIP, name)


def translate(state: State, config: names.ModelConfig) -> State:
    """A part's tensors, its prefix taken off, under the names of diffusers; a name without a rule is kept as it is."""
    if isinstance(config, ClipTextConfig):
        state = _open_clip(state, config) if any(key.startswith(OPEN_CLIP) for key in state) else state
    known = {original_name(name, config): name for name in names.torch_shapes(config)}
    return {known.get(key, key): value for key, value in state.items()}


def _open_clip(state: State, config: ClipTextConfig) -> State:
    """In-projections split in three, and layers left out that the config does not have.

    Stable Diffusion 2.x reads the last but one layer, so its text encoder in diffusers lacks the last.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        layer = _RESBLOCK.match(key)
        if key in ("text_projection", "logit_scale", "attn_mask") or (
            layer and int(layer[1]) >= config.num_hidden_layers
        ):
            continue
        if tensor.shape and (thirds := _THIRDS.fullmatch(key)):
            for third, name in enumerate("qkv"):
                found[f"{thirds[1]}{name}.{thirds[2]}"] = _third(tensor, third)
        else:
            found[key] = tensor
    return found


def _third(tensor: Tensor, which: int) -> Tensor:
    size = tensor.shape[0] // 3
    return tensor.then((size, *tensor.shape[1:]), lambda values: values[which * size : (which + 1) * size])


def _unet_name(name: str, config: UNetConfig) -> str:
    per_level = config.layers_per_block + 1
    if found := _MID.fullmatch(name):
        return f"middle_block.{2 * int(found[1])}.{_resnet(found[2])}"
    found = _BLOCK.fullmatch(name)
    if found is None:
        return _apply(_UNET_ENDS, name)
    side, level, kind, index, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    rest = _resnet(rest) if kind == "resnets" else rest
    if kind == "downsamplers":
        return f"input_blocks.{(level + 1) * per_level}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        attends = config.up_block_types[level].startswith("CrossAttn")
        return f"output_blocks.{level * per_level + config.layers_per_block}.{1 + attends}.{rest}"
    block = level * per_level + index + (side == "down_blocks")
    group = "input_blocks" if side == "down_blocks" else "output_blocks"
    return f"{group}.{block}.{int(kind == 'attentions')}.{rest}"


def _resnet(rest: str) -> str:
    module, _, leaf = rest.partition(".")
    return f"{_UNET_RESNET[module]}.{leaf}"


def _apply(rules: Rules, name: str) -> str:
    for pattern, new in rules:
        name = re.sub(rf"(?<![a-z_]){pattern}", new, name)
    return name
