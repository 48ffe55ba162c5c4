"""Partial UNet weights in ESD's layout: what is written, and that it comes back on the base."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

from ine_jax.errors import InputError
from ine_jax.models.checkpoints import delta, names
from ine_jax.storage.safetensors_writer import write_safetensors
from ine_jax.storage.weight_files import Weights
from ine_jax.types import Params
from tests.support.model_recipes import UNETS, torch_state

CONFIG = UNETS["shallow"]
KEY = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"
VALUE = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight"


@pytest.fixture(scope="module")
def base() -> Params:
    return names.from_torch("unet", torch_state(CONFIG), CONFIG)


def edited(base: Params) -> Params:
    state = names.to_torch(base)
    return names.from_torch("unet", {**state, KEY: state[KEY] + 0.25, VALUE: state[VALUE] * 1.5}, CONFIG)


def applied(base: Params, file: Path) -> Params:
    return names.from_torch("unet", {**names.to_torch(base), **Weights((file,))}, CONFIG)


def same(a: Params, b: Params) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool(jnp.array_equal(x, y)), dict(a), dict(b))))


def test_only_what_changed_is_written_and_comes_back(base: Params, tmp_path: Path) -> None:
    file = tmp_path / "esd.safetensors"
    new = edited(base)
    assert delta.write_unet_delta(new, base, file, {"method": "esd-x"}) == (KEY, VALUE)
    with safetensors.safe_open(file, "numpy") as opened:
        assert sorted(opened.keys()) == [KEY, VALUE]
        assert opened.metadata() == {"format": "pt", "method": "esd-x"}
    assert same(applied(base, file), new)
    assert not same(base, new)


def test_half_precision_file_keeps_the_dtype_of_the_base(base: Params, tmp_path: Path) -> None:
    file = tmp_path / "esd.safetensors"
    delta.write_unet_delta(edited(base), base, file, dtype="bfloat16")
    assert str(Weights((file,))[KEY].dtype) == "bfloat16"
    found = names.to_torch(applied(base, file))
    assert {value.dtype for value in found.values()} == {np.dtype("float32")}
    np.testing.assert_allclose(found[VALUE], names.to_torch(edited(base))[VALUE], rtol=1e-2)


def test_equal_files_have_equal_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {f"block.{i}.weight": rng.normal(size=(2, 3)).astype(np.float32) for i in range(5)}
    tensors["half"] = np.arange(3, dtype=np.float16)
    metadata = {f"key {i}": f"value {i} \u00e9" for i in range(20)}
    written = set()
    for turn in range(4):  # the library hashes anew for every file it writes
        order = rng.permutation(20)
        write_safetensors(tmp_path / f"{turn}.safetensors", tensors, {f"key {i}": metadata[f"key {i}"] for i in order})
        written.add((tmp_path / f"{turn}.safetensors").read_bytes())
    assert len(written) == 1
    with safetensors.safe_open(tmp_path / "0.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt", **metadata}
        assert set(file.keys()) == set(tensors)
        for name, value in tensors.items():
            np.testing.assert_array_equal(file.get_tensor(name), value)


def test_nothing_changed_is_refused(base: Params, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weight differs"):
        delta.write_unet_delta(base, base, tmp_path / "esd.safetensors")
    assert not list(tmp_path.iterdir())


def test_other_architecture_is_refused(base: Params, tmp_path: Path) -> None:
    other = {**base, "extra": {"kernel": jnp.ones((2, 2))}}
    with pytest.raises(InputError, match="different parameters"):
        delta.write_unet_delta(other, base, tmp_path / "esd.safetensors")
