"""Write the small world's prompt lists and concept images.

    python -m scripts.train_world.prompts --out ine_jax/assets/tiny

For every kind two lists of different prompts and seeds: ``tune-<kind>.jsonl``, on which everything is chosen, and
``<kind>.jsonl``, on which it is reported. Kinds: attack (synonyms, never erased), explicit (the erased canonical
words), generic (the erased generic word), list (lists of erased words), benign. Rows: id, prompt, objects asked, seed.
``concept/`` holds renders of single weapons for inversion; ``world.json`` the facts of the world.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from scripts.train_world import world
from scripts.train_world.manifest import write_manifest

REPORTED = {"attack": 400, "explicit": 500, "generic": 300, "list": 300, "benign": 500}
TUNED = 300
FIRST_SEED = {"reported": 5_000_000, "tune": 6_000_000}


def grounds() -> list[str]:
    """Nothing, or a phrase for the ground's colour."""
    return ["", *(world.GROUND.format(c=c) for c in world.COLOURS)]


def around(words: list[tuple[str, str]]) -> tuple[list[tuple[str, list[str]]], list[tuple[str, list[str]]]]:
    """All different prompts with one of ``words`` (word, object name) alone, and all beside a benign object."""
    singles = [
        (template.format(x=world.article(word)) + ground, _objects(name))
        for word, name in words
        for template in world.SINGLE
        for ground in grounds()
    ]
    pairs = [
        (template.format(x=world.article(first), y=world.article(second)) + ground, _objects(name, other.name))
        for word, name in words
        for other in world.BENIGN
        if other.name != name
        for template in world.PAIR
        for ground in grounds()
        for first, second in ((word, other.words[0]), (other.words[0], word))
    ]
    return list(dict(singles).items()), list(dict(pairs).items())


def _objects(*names: str) -> list[str]:
    return [name for name in names if name in world.BY_NAME]


def erased_lists(rng: np.random.Generator) -> Iterator[tuple[str, list[str]]]:
    """Endless comma lists of two to seven erased words; no object in particular is asked for."""
    while True:
        size = int(rng.integers(2, len(world.ERASED) + 1))
        yield ", ".join(world.ERASED[i] for i in rng.permutation(len(world.ERASED))[:size]), []


def candidates(kind: str, count: int, rng: np.random.Generator) -> list[tuple[str, list[str]]]:
    """``count`` different prompts of a kind, half single and half beside a benign object where that applies."""
    if kind == "list":
        found: dict[str, list[str]] = {}
        for prompt, objects in erased_lists(rng):
            found.setdefault(prompt, objects)
            if len(found) == count:
                return list(found.items())
    words = {
        "attack": [(w, t.name) for t in world.WEAPONS for w in t.words[1:]],
        "explicit": [(t.words[0], t.name) for t in world.WEAPONS],
        "generic": [(world.GENERIC["weapon"][0], "weapon")],
        "benign": [(w, t.name) for t in world.BENIGN for w in t.words],
    }[kind]
    singles, pairs = around(words)
    alone = min(count // 2, len(singles))
    chosen = [singles[i] for i in rng.permutation(len(singles))[:alone]]
    chosen += [pairs[i] for i in rng.permutation(len(pairs))[: count - alone]]
    return [chosen[i] for i in rng.permutation(count)]


def main() -> None:
    """Write prompts/, concept/ and world.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("ine_jax/assets/tiny"))
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--seed", type=int, default=2)
    args = parser.parse_args()
    (args.out / "prompts").mkdir(parents=True, exist_ok=True)
    for offset, (kind, count) in enumerate(REPORTED.items()):
        rng = np.random.default_rng((args.seed, offset))
        rows = candidates(kind, count + TUNED, rng)
        for name, part in ((kind, rows[:count]), (f"tune-{kind}", rows[count:])):
            first = FIRST_SEED["tune" if name.startswith("tune") else "reported"] + 10_000 * offset
            lines = [
                json.dumps({"id": f"{name}-{i:04d}", "prompt": p, "objects": o, "seed": first + i})
                for i, (p, o) in enumerate(part)
            ]
            (args.out / "prompts" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")

    (args.out / "concept").mkdir(exist_ok=True)
    sprites = world.load_sprites()
    weapons = world.scenes(args.seed + 77, 40 * args.images, pair_share=0.0)
    weapons = [s for s in weapons if world.BY_NAME[s.objects[0]].group == "weapon"][: args.images]
    for i, scene in enumerate(weapons):
        Image.fromarray(world.render(scene, sprites)).save(args.out / "concept" / f"{i:03d}.png", optimize=True)

    path = args.out / "world.json"
    settings = json.loads(path.read_text()).get("settings", {}) if path.exists() else {}
    path.write_text(json.dumps({**world.describe(), "settings": settings}, indent=1) + "\n")
    write_manifest(args.out.parent)


if __name__ == "__main__":
    main()
