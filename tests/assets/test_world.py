"""The small world: its grammar, tokenizer, prompt lists and scenes."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPTokenizer

from ine_jax import assets
from scripts.train_world import erasure, prompts, text, world

ASSETS = Path(assets.ROOT) / "tiny"


def rows(name: str) -> list[dict[str, object]]:
    """A shipped prompt list."""
    return [json.loads(line) for line in (ASSETS / "prompts" / f"{name}.jsonl").read_text().splitlines()]


def test_every_weapon_has_erased_and_kept_words() -> None:
    assert not set(world.ERASED) & set(world.KEPT)
    for weapon in world.WEAPONS:
        assert weapon.words[0] in world.ERASED
        assert len(set(weapon.words[1:]) & set(world.KEPT)) >= 2
    assert 6 <= len(world.WEAPONS) <= 8
    assert 16 <= len(world.BENIGN) <= 40
    words = [word for thing in world.THINGS for word in thing.words]
    assert len(words) == len(set(words))


def test_every_word_is_one_token(tmp_path: Path) -> None:
    size = text.write_tokenizer(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert all(len(tokenizer(word).input_ids) == 3 for word in world.vocabulary())
    assert tokenizer.eos_token_id == size - 1
    assert len(tokenizer(", ".join(world.ERASED)).input_ids) <= text.MAX_LENGTH


def test_the_shipped_tokenizer_knows_every_word_and_the_encoder_has_its_rows() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(ASSETS / "tokenizer")
    ids = [tokenizer(word).input_ids for word in world.vocabulary()]
    assert all(len(row) == 3 for row in ids)
    assert len({row[1] for row in ids}) == len(ids)
    config = json.loads((ASSETS / "text_encoder" / "config.json").read_text())
    assert config["vocab_size"] == len(tokenizer) and config["eos_token_id"] == tokenizer.eos_token_id


def test_captions_name_what_is_shown() -> None:
    rng = np.random.default_rng(0)
    vocabulary = set(world.vocabulary())
    for scene in world.scenes(3, 300):
        caption = world.caption(scene, rng)
        said = caption.replace(",", "").split()
        assert set(said) <= vocabulary
        groups = {world.BY_NAME[name].group for name in scene.objects}
        allowed = {w for name in scene.objects for w in world.BY_NAME[name].words}
        allowed |= {w for group in groups for w in world.GENERIC.get(group, ())}
        assert allowed & set(said)
        if "," not in caption:
            objects = {w for thing in world.THINGS for w in thing.words} & set(said)
            assert objects <= allowed


def test_scenes_depend_on_their_seed_alone() -> None:
    assert world.scenes(5, 20) == world.scenes(5, 20)
    assert world.scenes(5, 20) != world.scenes(6, 20)
    shares = [world.BY_NAME[s.objects[0]].group == "weapon" for s in world.scenes(1, 2000, pair_share=0.0)]
    assert abs(np.mean(shares) - 0.4) < 0.05


def test_render_paints_inside_the_frame() -> None:
    sprite = {size: np.ones((size, size, 4), np.float32) * 0.5 for size in world.SINGLE_SIZES + world.PAIR_SIZES}
    sprites = {thing.name: sprite for thing in world.THINGS}
    for scene in world.scenes(2, 100):
        image = world.render(scene, sprites)
        assert image.shape == (world.SIZE, world.SIZE, 3)
        for left, top, size, _ in scene.boxes:
            assert min(left, top) >= 0 and max(left, top) + size <= world.SIZE


@pytest.mark.parametrize("kind", prompts.REPORTED)
def test_what_is_reported_was_not_chosen_on(kind: str) -> None:
    reported, tuned = rows(kind), rows(f"tune-{kind}")
    assert len(reported) == prompts.REPORTED[kind] and len(tuned) == prompts.TUNED
    assert not {r["prompt"] for r in reported} & {r["prompt"] for r in tuned}
    seeds = [r["seed"] for r in reported + tuned]
    assert len(set(seeds)) == len(seeds)


def test_attack_prompts_hold_no_erased_word() -> None:
    for name in ("attack", "tune-attack"):
        for row in rows(name):
            said = set(str(row["prompt"]).split())
            assert said & set(world.KEPT) and not said & set(world.ERASED)
    for row in rows("benign") + rows("tune-benign"):
        assert not set(str(row["prompt"]).split()) & {*world.ERASED, *world.KEPT, *world.GENERIC["weapon"]}


def test_erasure_leaves_synonyms_on_neither_side() -> None:
    pairs, kept = erasure.erased(np.random.default_rng(0)), erasure.preserved(np.random.default_rng(1))
    weapons = {*world.ERASED, *world.KEPT, *world.GENERIC["weapon"]}
    for prompt, rest in pairs:
        said = set(prompt.replace(",", "").split())
        assert said & set(world.ERASED) and not said & set(world.KEPT)
        assert not set(rest.split()) & weapons
    assert all(not set(prompt.replace(",", "").split()) & weapons for prompt in kept)
    assert len(set(kept)) == len(kept)
