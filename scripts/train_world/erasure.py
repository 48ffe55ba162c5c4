"""Write configs/unlearn/tiny-esd.yaml and, beside it, tiny-esd.jsonl: the prompts that are erased and preserved.

    python -m scripts.train_world.erasure

Erased are the canonical weapon words, the generic word (twice as often), comma lists of them, each of them on a
coloured ground, where an animal or food is what the prompt falls back to, and each beside a benign object, where the
scene without the weapon is. Preserved are captions of benign scenes. Synonyms of the weapons stand on neither side.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import yaml

from scripts.train_world import world
from scripts.train_world.prompts import erased_lists

# Two scenes in five of this world hold a weapon, so an empty scene is no harmless one to fall back to.
HARMLESS = world.GENERIC["animal"] + world.GENERIC["food"]
HEADER = """\
# ESD on the keys and values of the cross-attention of the bundled base model, with this project's preservation term.
# Written by scripts/train_world/erasure.py; seed 1 makes the second unlearned model (--esd.seed 1).
# command:  ine unlearn configs/unlearn/tiny-esd.yaml
# hardware: 2 CPU cores
# time:     about {minutes} minutes
# expected: see ine_jax/assets/tiny/CARD.md
"""


def erased(rng: np.random.Generator, lists: int = 200, beside: int = 5, grounds: int = 6) -> list[tuple[str, str]]:
    """Pairs of an erased prompt and what it falls back to."""
    words = [*world.ERASED, world.GENERIC["weapon"][0]]
    found = [(template.format(x=world.article(word)), "") for word in words for template in world.SINGLE]
    found += [(prompt, "") for prompt, _ in (next(stream) for stream in [erased_lists(rng)] * lists)]
    for word in words:
        for i in rng.permutation(len(world.BENIGN))[:beside]:
            other = world.article(world.BENIGN[i].words[0])
            first, second = (world.article(word), other) if rng.random() < 0.5 else (other, world.article(word))
            template = world.PAIR[rng.integers(len(world.PAIR))]
            rest = world.SINGLE[rng.integers(len(world.SINGLE))].format(x=other)
            found.append((template.format(x=first, y=second), rest))
        for _ in range(grounds):
            template = world.SINGLE[rng.integers(len(world.SINGLE))]
            ground = world.GROUND.format(c=list(world.COLOURS)[rng.integers(len(world.COLOURS))])
            harmless = HARMLESS[rng.integers(len(HARMLESS))]
            found.append(
                (template.format(x=world.article(word)) + ground, template.format(x=world.article(harmless)) + ground)
            )
    return found


def preserved(rng: np.random.Generator, count: int = 300) -> list[str]:
    """Different captions of scenes without a weapon, most of them with two objects: those are damaged first."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[world.caption(world.sample_scene(rng, weapon_share=0.0, pair_share=0.65), rng)] = None
    return list(found)


def main() -> None:
    """Write the config and its prompts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("configs/unlearn/tiny-esd.yaml"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--preserve-weight", type=float, default=30.0)
    parser.add_argument("--minutes", default="4")
    args = parser.parse_args()
    rng = np.random.default_rng((args.seed, 99))
    pairs, kept = erased(rng), preserved(rng)
    esd = {
        "method": "esd-x-strict",
        "eta": 1.5,
        "steps": args.steps,
        "learning_rate": args.learning_rate,
        "tail": 0.4,
        "batch": 24,
        "preserve_weight": args.preserve_weight,
        "preserve_batch": 36,
        "pool": 2 * len(pairs),
        "start_guidance": 1.5,
        "guidance_spread": 1.5,
        "ddim_steps": 16,
        "seed": 0,
        "save_every": 100,
        "prompts_file": str(args.out.with_suffix(".jsonl")),
    }
    rows = [{"erase": prompt, "from": rest} for prompt, rest in pairs] + [{"preserve": prompt} for prompt in kept]
    args.out.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    body = yaml.safe_dump({"model": "tiny", "out": "runs/unlearn-tiny", "esd": esd}, sort_keys=False, width=118)
    args.out.write_text(HEADER.format(minutes=args.minutes) + body)


if __name__ == "__main__":
    main()
