"""SAFREE's text side in PyTorch, prompt by prompt as the release works, on transformers' CLIP text encoder."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ine_jax.guidance import Cfg, Safree
from ine_jax.guidance.projection import masked_copies
from ine_jax.guidance.safree import SafeText
from ine_jax.models.checkpoints import names
from ine_jax.models.clip import ClipText
from tests.support.model_recipes import TEXTS, torch_state

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.support.model_oracles import load_torch  # noqa: E402  needs PyTorch

CONFIG = TEXTS["sd1"]
END, LENGTH = CONFIG.eos_token_id, CONFIG.max_position_embeddings


def ids(tokens: list[int]) -> list[int]:
    return ([END - 1, *tokens[: LENGTH - 2], END] + [END] * LENGTH)[:LENGTH]


PROMPTS = [[9], [5, 17, 3], [20, 4, 33, 8, 2, 41], [11, 12, 13, 14, 15, 16, 17, 18, 19, 21]]
LONG = [7, 21, 3] * LENGTH  # the release cuts it, and its copies without an end token
PHRASES = [[5, 17], [41], [30, 31, 32], [5, 17]]  # one of them twice: the rank is 3
NUMBERS = {"steepness": 0.7, "midpoint": 6.0, "up_t": 40.0}


def expected(model: Any, prompt: list[int]) -> dict[str, Any]:
    """One prompt, unpadded copies, projectors as matrices, in float64 after the encoder."""

    def pooled(rows: list[list[int]]) -> Any:
        return model(torch.tensor(rows)).pooler_output.double()

    def projector(columns: Any) -> Any:
        return columns.T @ torch.linalg.pinv(columns @ columns.T, rtol=1e-9, hermitian=True) @ columns

    short = [END - 1, *prompt, END][:LENGTH]
    count = len(short) - 2
    copies = [[0 if j == i + 1 else token for j, token in enumerate(short)] for i in range(count)]
    concept, own = projector(pooled([ids(p) for p in PHRASES])), projector(masked := pooled(copies))
    away = torch.eye(CONFIG.hidden_size, dtype=torch.float64) - concept
    text = model(torch.tensor([ids(prompt)])).last_hidden_state[0].double()

    distances = torch.linalg.vector_norm(masked @ away, dim=1)
    means = torch.stack([torch.cat((distances[:i], distances[i + 1 :])).mean() for i in range(count)])
    triggers = ~(distances < 1.01 * means)
    moved = text @ (away @ own).T
    replaced = torch.zeros(LENGTH, dtype=torch.bool)
    replaced[1 : count + 1] = triggers
    seen = len(short)
    beta = 1 - torch.nn.functional.cosine_similarity(moved[:seen], text[:seen]).mean().item()
    curve = torch.sigmoid(torch.tensor(2 * NUMBERS["steepness"] * (10 * beta - NUMBERS["midpoint"]))).item()
    safe = torch.where(replaced[:, None], moved, text)
    until = round(NUMBERS["up_t"] * curve)
    return {"safe": safe, "triggers": triggers, "distances": distances, "shift": beta, "until": until}


def test_the_text_side_is_pytorchs() -> None:
    model = load_torch(CONFIG, torch_state(CONFIG))
    params = names.from_torch("text", torch_state(CONFIG), CONFIG)

    @jax.jit
    def project(prompts: jax.Array, cut: jax.Array, phrases: jax.Array) -> SafeText:
        def encode(rows: jax.Array) -> Any:
            return ClipText(CONFIG).apply({"params": params}, rows)

        copies = masked_copies(prompts, END, cut=cut)
        hidden = encode(copies.ids.reshape(-1, LENGTH)).hidden.reshape(*copies.ids.shape, -1)
        masked = jnp.take_along_axis(hidden, copies.pooled[:, None, None, None], axis=2)[:, :, 0]
        guard = Safree(Cfg(), **NUMBERS)  # type: ignore[arg-type]
        return guard.project(encode(prompts).hidden, masked, copies.mask, copies.end, encode(phrases).pooled)

    prompts, phrases = (jnp.asarray([ids(p) for p in texts], jnp.int32) for texts in ([*PROMPTS, LONG], PHRASES))
    cut = jnp.asarray([False] * len(PROMPTS) + [True])
    got = project(prompts, cut, phrases)
    untils = set()
    for i, prompt in enumerate([*PROMPTS, LONG]):
        want, n = expected(model, prompt), min(len(prompt), LENGTH - 2)
        np.testing.assert_allclose(got.distances[i, :n], want["distances"], rtol=1e-4)
        np.testing.assert_array_equal(got.triggers[i, :n], want["triggers"])
        np.testing.assert_allclose(got.safe[i], want["safe"], atol=2e-4)
        assert abs(float(got.shift[i]) - want["shift"]) < 1e-4
        assert int(got.until[i]) == want["until"]
        untils.add(want["until"])
    assert len(untils) > 2
    assert 1 < int(got.triggers.sum()) < sum(map(len, PROMPTS))
    assert not got.triggers[-1].any()
    whole = project(prompts, jnp.zeros_like(cut), phrases)  # `overlong` is "end-token"
    assert int(whole.until[-1]) < int(got.until[-1])
    for released, ended in zip(jax.tree.leaves(got), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(released[:-1], ended[:-1])
