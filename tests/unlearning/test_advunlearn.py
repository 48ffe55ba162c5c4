"""AdvUnlearn: attack and loss against NumPy, rows over devices, which weights, and the folder in transformers."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.config import AdvUnlearnConfig
from ine_jax.errors import InputError
from ine_jax.models.clip import ClipTextConfig
from ine_jax.models.text import PLACEHOLDER
from ine_jax.models.unet import UNetConfig
from ine_jax.pipeline.mesh import device_mesh
from ine_jax.pipeline.pipeline import Pipeline, load
from ine_jax.training.rows import ALL, Share
from ine_jax.training.step import compiled_step, first_state
from ine_jax.types import Array
from ine_jax.unlearning import advunlearn
from ine_jax.unlearning.advunlearn import AdvUnlearnObjective, Data, Frozen
from ine_jax.unlearning.esd_data import Pool
from ine_jax.unlearning.prompts import with_prompts

SMALL = AdvUnlearnConfig(
    erase=("a knife",), preserve=("a cat",), steps=2, preserve_batch=1, attack_start=1, attack_steps=2, pool=2,
    preserve_pool=2, ddim_steps=2, save_every=1, log_every=1,
)  # fmt: skip
CELL = (1, 1, 3)  # of the toy: a latent as wide as a token
KINDS, VOCABULARY = 3, 7


@pytest.fixture(scope="module")
def pipe(tiny_folder: Path) -> Pipeline:
    return load(tiny_folder, batch_size=4, compile_cache=False)


class Toy(AdvUnlearnObjective):
    """Networks that NumPy can differentiate: the context is the prefix plus weight[prompt], ε is 2 (x + context)."""

    def encode(self, weights: Any, frozen: Any, ids: Any, prefix: Any) -> Any:
        attacked = (ids >= PLACEHOLDER).any(1)
        padded = jnp.zeros((len(ids), prefix.shape[-1])).at[: len(prefix)].set(prefix[:, 0])
        return (jnp.where(attacked[:, None], padded, 0.0) + weights["w"][ids[:, 0]])[:, None]

    def denoise(self, frozen: Any, latents: Any, timesteps: Any, context: Any) -> Any:
        return 2.0 * (latents + context[:, :, None])


def toy(attack: str, **changes: Any) -> Toy:
    text, mesh = ClipTextConfig(hidden_size=3, vocab_size=VOCABULARY), device_mesh(jax.devices()[:1])
    settings: dict[str, Any] = {"batch": 4, "preserve_batch": 3, "attack_start": 1, "attack_steps": 5, **changes}
    return Toy(text=text, unet=UNetConfig(), dtype=jnp.float32, mesh=mesh, attack=attack, tokens=1, **settings)


def toy_data() -> tuple[dict[str, Array], Frozen, Data]:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    prompt, times = jnp.arange(8) % KINDS, jnp.asarray([600.0, 1.0])
    pools = [Pool(normal(8, 2, *CELL), normal(8, 2, *CELL), times, prompt) for _ in range(2)]
    ids = jnp.arange(KINDS, dtype=jnp.int32)[:, None]
    spare, holder = jnp.zeros_like(ids), jnp.full_like(ids, PLACEHOLDER)
    plain, attacked = jnp.concatenate([ids, spare], 1), jnp.concatenate([ids, holder], 1)
    table = {"text_model": {"embeddings": {"token_embedding": {"embedding": normal(VOCABULARY, 3)}}}}
    numbers = (jnp.uint32(0), jnp.float32(0.5), jnp.float32(0.1))
    data = Data(pools[0], normal(8, 2, *CELL), pools[1], plain, attacked, plain, *numbers)
    return {"w": normal(KINDS, 3)}, Frozen(table, {}), data


@pytest.mark.parametrize("attack", ["pgd", "fast-at"])
def test_the_attack_equals_adam_in_numpy(attack: str) -> None:
    weights, frozen, data = toy_data()
    objective, key, prompt = toy(attack), jax.random.key(5), jnp.asarray([2, 0, 1, 2])
    numbers, ids = jnp.arange(4), data.attacked[prompt]
    start = np.asarray(objective.prefix(weights, frozen, data, (key, numbers, prompt, ids), jnp.int32(0)))
    table = np.asarray(frozen.text["text_model"]["embeddings"]["token_embedding"]["embedding"])
    assert all((table == row).all(1).any() for row in start[:, 0])
    found = objective.prefix(weights, frozen, data, (key, numbers, prompt, ids), jnp.int32(5))
    v, m, s = start[:, 0].astype(np.float64), np.zeros((4, 3)), np.zeros((4, 3))
    for j in range(5):
        points = advunlearn.sample(data, jax.random.fold_in(key, objective.batch + j), numbers, prompt)
        x, answer = (np.asarray(a, np.float64)[:, 0, 0] for a in (points.latents, points.answers))
        gradient = 4 * (2 * (x + v + np.asarray(weights["w"])[prompt]) - answer) / 3
        gradient = np.sign(gradient) if attack == "fast-at" else gradient
        m, s = 0.9 * m + 0.1 * gradient, 0.999 * s + 0.001 * gradient**2
        v = v - 0.1 * (m / (1 - 0.9 ** (j + 1))) / (np.sqrt(s / (1 - 0.999 ** (j + 1))) + 1e-8)
    np.testing.assert_allclose(found[:, 0], v, atol=1e-5)


def test_points_belong_to_the_prompt_and_the_row() -> None:
    _, _, data = toy_data()
    prompt = jnp.arange(60) % KINDS
    points = advunlearn.sample(data, jax.random.key(0), jnp.arange(60), prompt)
    seen = set()
    for n in range(60):
        ((i, s),) = np.argwhere(np.isclose(data.erased.latents, points.latents[n]).all((2, 3, 4)))
        assert i % KINDS == prompt[n] and float(points.timesteps[n]) == float(data.erased.timesteps[s])
        np.testing.assert_array_equal(points.targets[n], data.erased.targets[i, s])
        np.testing.assert_array_equal(points.answers[n], data.answers[i, s])
        seen.add((i, s))
    assert len(seen) == 16
    some = advunlearn.sample(data, jax.random.key(0), jnp.asarray([7, 41]), prompt[jnp.asarray([7, 41])])
    np.testing.assert_array_equal(some.latents, points.latents[jnp.asarray([7, 41])])


@pytest.mark.thorough
@pytest.mark.parametrize("step", [0, 1])
def test_the_loss_equals_numpy_and_is_shared_out_over_devices(step: int) -> None:
    weights, frozen, data = toy_data()
    objective = toy("pgd")
    loss, metrics = objective.loss(weights, frozen, data, jnp.int32(step), ALL)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(data.seed), step), 4)
    rows, w = jnp.arange(4), np.asarray(weights["w"], np.float64)
    prompt = jax.random.randint(keys[0], (4,), 0, KINDS)
    ids = data.attacked[prompt]
    prefix = objective.prefix(weights, frozen, data, (keys[1], rows, prompt, ids), jnp.int32(5))[:, 0]
    context = w[prompt] + (np.asarray(prefix) if step else 0.0)  # the first step has no prefix
    points = advunlearn.sample(data, keys[2], rows, prompt)
    eps = 2 * (np.asarray(points.latents)[:, 0, 0] + context)
    erase = np.mean((eps - np.asarray(points.targets)[:, 0, 0]) ** 2)
    (x, _, wanted), kept = advunlearn.sample_kept(data, keys[3], 3, jnp.arange(3))
    preserve = np.mean((2 * (np.asarray(x)[:, 0, 0] + w[kept[:, 0]]) - np.asarray(wanted)[:, 0, 0]) ** 2)
    np.testing.assert_allclose(metrics["erase"], erase, rtol=1e-5)
    np.testing.assert_allclose(metrics["preserve"], preserve, rtol=1e-5)
    np.testing.assert_allclose(loss, erase + 0.5 * preserve, rtol=1e-5)
    np.testing.assert_allclose(
        metrics["distance"], np.mean((eps - np.asarray(points.answers)[:, 0, 0]) ** 2), rtol=1e-5
    )
    parts = [objective.loss(weights, frozen, data, jnp.int32(step), Share(k, 3)) for k in range(3)]
    for name, value in metrics.items():
        np.testing.assert_allclose(sum(float(part[name]) for _, part in parts), value, rtol=1e-5)
    slope = jax.grad(objective.loss, has_aux=True)(weights, frozen, data, jnp.int32(step), ALL)[0]["w"]
    assert np.isfinite(slope).all() and np.abs(slope).max() > 0


def test_the_layers_of_the_encoder_are_trained(pipe: Pipeline) -> None:
    params = pipe.parts.text_params
    every, first = set(advunlearn.trained(params, None)), set(advunlearn.trained(params, 1))
    assert {name.split(".")[1] for name in every} == {"encoder", "final_layer_norm"}
    assert first == {name for name in every if ".layers.0." in name} and len(every) == 2 * len(first) + 2


@pytest.mark.thorough
def test_an_unchanged_encoder_answers_as_the_original(pipe: Pipeline) -> None:
    objective, data = advunlearn.advunlearn_objective(pipe, SMALL), advunlearn.data_of(pipe, SMALL)
    weights, frozen = (
        advunlearn.trained(pipe.parts.text_params, None),
        Frozen(pipe.parts.text_params, pipe.parts.unet_params),
    )
    state = first_state(objective, weights, SMALL.learning_rate)
    _, metrics = compiled_step(objective)(frozen, data, state, 0)
    assert float(metrics["preserve"]) < 1e-9 and float(metrics["distance"]) < 1e-9 < float(metrics["erase"])
    assert (np.asarray(data.attacked)[0, 1] == PLACEHOLDER) and data.attacked[0, 2] == data.ids[0, 1]


@pytest.mark.oracle
def test_transformers_reads_the_encoder(pipe: Pipeline, tiny_folder: Path, tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    found = advunlearn.unlearn(pipe, dataclasses.replace(SMALL, learning_rate=1e-2), tmp_path)
    encoder = transformers.CLIPTextModel.from_pretrained(found.path)
    prompts = ["a knife", "a photo of a cat"]
    with torch.no_grad():
        theirs = encoder(torch.from_numpy(pipe.tokenizer.ids(prompts).astype(np.int64)))[0].numpy()
    ours = load(tiny_folder, unlearned=found.path, batch_size=4, compile_cache=False).encode(prompts)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.abs(ours - pipe.encode(prompts)).max() > 1e-3


def test_preserved_prompts_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "retain.csv"
    path.write_text(
        "case_num,source,prompt\n1,coco_object,a photo of chair\n2,coco_object,a photo of fridge\n", "utf-8"
    )
    found = with_prompts(AdvUnlearnConfig(erase=("a knife",), preserve_file=str(path)))
    assert found == AdvUnlearnConfig(erase=("a knife",), preserve=("a photo of chair", "a photo of fridge"))


@pytest.mark.parametrize(
    "change", [{"erase": ()}, {"preserve": ()}, {"layers": 3}, {"attack_tokens": 30}, {"preserve_file": "nowhere.csv"}]
)
def test_wrong_input_is_rejected(pipe: Pipeline, tmp_path: Path, change: dict[str, Any]) -> None:
    rest = {"preserve": ()} if "preserve_file" in change else {}
    with pytest.raises(InputError):
        advunlearn.unlearn(pipe, dataclasses.replace(SMALL, **{**change, **rest}), tmp_path / "new")
    assert not (tmp_path / "new").exists()
