"""Names and layouts: PyTorch → Flax → PyTorch is the identity, and what does not fit is named."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.errors import InputError
from ine_jax.models.checkpoints import names
from ine_jax.models.unet import UNetConfig
from tests.support.cases import sample
from tests.support.model_recipes import TEXTS, UNETS, VAES, normal, torch_state

ALL = {f"{kind}-{name}": c for kind, r in (("unet", UNETS), ("vae", VAES), ("text", TEXTS)) for name, c in r.items()}
QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q.weight"


@pytest.mark.parametrize("recipe", sample(ALL, set(ALL) - {"unet-sd1", "unet-sd2"}))
def test_round_trip_is_exact(recipe: str) -> None:
    config = ALL[recipe]
    state = torch_state(config)
    params = names.from_torch("it", state, config)
    back = names.to_torch(params)
    assert back.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
    again = names.from_torch("it", back, config)
    assert names.to_torch(again).keys() == back.keys()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (("down_blocks_0", "resnets_1", "conv1", "kernel"), "down_blocks.0.resnets.1.conv1.weight"),
        (
            ("mid_block", "attentions_0", "transformer_blocks_0", "attn1", "to_out_0", "bias"),
            "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.bias",
        ),
        (("up_blocks_1", "upsamplers_0", "conv", "kernel"), "up_blocks.1.upsamplers.0.conv.weight"),
        (("time_embedding", "linear_1", "kernel"), "time_embedding.linear_1.weight"),
        (("mid_block", "attentions_0", "proj_attn", "kernel"), "mid_block.attentions.0.to_out.0.weight"),
        (("text_model", "layers", "0", "layer_norm1", "scale"), "text_model.layers.0.layer_norm1.weight"),
    ],
)
def test_names_by_hand(path: tuple[str, ...], name: str) -> None:
    assert names.torch_name(path) == name


def test_layouts_by_hand() -> None:
    conv = np.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)  # out, in, height, width
    flax = names.to_flax_layout(("conv", "kernel"), conv)
    assert flax.shape == (5, 7, 3, 2) and flax[4, 6, 1, 0] == conv[0, 1, 4, 6]
    dense = np.arange(6).reshape(2, 3)  # out, in
    assert names.to_flax_layout(("dense", "kernel"), dense)[2, 1] == dense[1, 2]
    table = names.to_flax_layout(("token_embedding", "embedding"), dense)
    np.testing.assert_array_equal(table, dense)


def test_old_vae_attention_names() -> None:
    config = VAES["sd"]
    state = torch_state(config)
    renames = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, value in state.items():
        for new, was in renames.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{was}.")
        old[name] = value
    assert sum("proj_attn" in name for name in old) == 4
    back = names.to_torch(names.from_torch("vae", old, config))
    assert all(np.array_equal(back[name], value) for name, value in state.items())


def test_text_prefix_is_optional_and_position_ids_are_ignored() -> None:
    config = TEXTS["sd1"]
    state = torch_state(config)
    bare = {name.removeprefix("text_model."): value for name, value in state.items()}
    bare["embeddings.position_ids"] = np.arange(12)[None]
    state_with_ids = {**state, "text_model.embeddings.position_ids": np.arange(12)[None]}
    for given in (bare, state_with_ids):
        back = names.to_torch(names.from_torch("text_encoder", given, config))
        assert all(np.array_equal(back[name], value) for name, value in state.items())


@pytest.mark.thorough
def test_projections_as_convolution_or_linear() -> None:
    """SD 1.x stores 1×1 convolutions, SD 2.x linear layers; either file fits either module."""
    for recipe, change in (("sd2", lambda v: v[:, :, None, None]), ("sd1", lambda v: v[:, :, 0, 0])):
        config, state = UNETS[recipe], torch_state(UNETS[recipe])
        other = {n: change(v) if n.endswith(("proj_in.weight", "proj_out.weight")) else v for n, v in state.items()}
        back = names.to_torch(names.from_torch("unet", other, config))
        assert all(np.array_equal(back[name], value) for name, value in state.items())


def test_every_wrong_key_is_named() -> None:
    state = torch_state(UNETS["shallow"])
    for key in ("conv_in.weight", "conv_in.bias", "conv_out.bias"):
        del state[key]
    state["conv_extra.weight"] = normal("x", 3)
    state["conv_norm_out.weight"] = normal("x", 7)
    with pytest.raises(names.WeightMismatch) as caught:
        names.from_torch("unet", state, UNETS["shallow"])
    error = caught.value
    assert sorted(error.missing) == ["conv_in.bias", "conv_in.weight", "conv_out.bias"]
    assert error.unexpected == ("conv_extra.weight",)
    assert error.misshapen == ("conv_norm_out.weight (7,) not (16,)",)
    lines = str(error).splitlines()
    assert len(lines) == 3
    assert "3 missing" in lines[0] and "conv_extra.weight" in lines[1] and "(7,) not (16,)" in lines[2]
    assert error.exit_code == 2


def test_a_name_given_twice_is_unexpected() -> None:
    state = torch_state(VAES["shallow"])
    state["encoder.mid_block.attentions.0.query.weight"] = state["encoder.mid_block.attentions.0.to_q.weight"]
    with pytest.raises(names.WeightMismatch) as caught:
        names.from_torch("vae", state, VAES["shallow"])
    assert caught.value.unexpected == ("encoder.mid_block.attentions.0.query.weight",)


@pytest.mark.parametrize(
    ("value", "said"),
    [(np.full((16,), np.nan, np.float32), "NaN"), (np.ones(16, np.int64), "int64")],
)
def test_values_must_be_finite_floats(value: np.ndarray, said: str) -> None:
    state = {**torch_state(UNETS["shallow"]), "conv_norm_out.bias": value}
    with pytest.raises(InputError, match=said):
        names.from_torch("unet", state, UNETS["shallow"])


def test_dtype_of_parameters() -> None:
    state = {name: value.astype(np.float16) for name, value in torch_state(TEXTS["sd1"]).items()}

    def dtypes(dtype: Any) -> set[str]:
        params = names.from_torch("text_encoder", state, TEXTS["sd1"], dtype)
        return {str(leaf.dtype) for leaf in names.to_torch(params).values()}

    assert dtypes(jnp.float32) == {"float32"}
    assert dtypes(jnp.bfloat16) == {"bfloat16"}
    assert dtypes(None) == {"float16"}


def test_impossible_config_is_an_input_error() -> None:
    config = UNetConfig(block_out_channels=(30, 60, 60, 60))  # 32 groups do not divide 30 channels
    with pytest.raises(InputError, match="norm_num_groups"):
        names.parameter_shapes(config)
