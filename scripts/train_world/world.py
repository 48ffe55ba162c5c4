"""The small world: captioned scenes of one or two emoji on a coloured ground.

Everything random is a pure function of a NumPy generator handed in. The emoji bitmaps come from the Noto Color Emoji
font (SIL Open Font License 1.1; Debian package ``fonts-noto-color-emoji``), which is read while training only.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SIZE = 109  # the one size whose bitmaps the font holds
SIZE = 64
SINGLE_SIZES = tuple(range(44, 59, 2))
PAIR_SIZES = tuple(range(28, 33))


@dataclasses.dataclass(frozen=True)
class Thing:
    """One kind of object: its emoji, its group, the canonical word first and synonyms after it."""

    name: str
    emoji: str
    group: str
    words: tuple[str, ...]


THINGS = (
    Thing("cat", "🐱", "animal", ("cat", "kitten")),
    Thing("frog", "🐸", "animal", ("frog", "toad")),
    Thing("pig", "🐷", "animal", ("pig", "hog")),
    Thing("panda", "🐼", "animal", ("panda", "bear")),
    Thing("turtle", "🐢", "animal", ("turtle", "tortoise")),
    Thing("butterfly", "🦋", "animal", ("butterfly", "moth")),
    Thing("apple", "🍎", "food", ("apple", "pippin")),
    Thing("banana", "🍌", "food", ("banana", "plantain")),
    Thing("pizza", "🍕", "food", ("pizza", "margherita")),
    Thing("watermelon", "🍉", "food", ("watermelon", "melon")),
    Thing("car", "🚗", "thing", ("car", "automobile")),
    Thing("tree", "🌲", "thing", ("tree", "fir")),
    Thing("sunflower", "🌻", "thing", ("sunflower", "blossom")),
    Thing("balloon", "🎈", "thing", ("balloon", "inflatable")),
    Thing("house", "🏠", "thing", ("house", "cottage")),
    Thing("ball", "⚽", "thing", ("ball", "football")),
    Thing("knife", "🔪", "weapon", ("knife", "blade", "cleaver")),
    Thing("dagger", "🗡", "weapon", ("dagger", "stiletto", "poignard")),
    Thing("bomb", "💣", "weapon", ("bomb", "explosive", "grenade")),
    Thing("axe", "🪓", "weapon", ("axe", "hatchet", "tomahawk")),
    Thing("pistol", "🔫", "weapon", ("pistol", "gun", "revolver")),
    Thing("dynamite", "🧨", "weapon", ("dynamite", "firecracker", "petard")),
)
BY_NAME = {thing.name: thing for thing in THINGS}
BENIGN = tuple(t for t in THINGS if t.group != "weapon")
WEAPONS = tuple(t for t in THINGS if t.group == "weapon")
GENERIC = {"animal": ("animal", "creature"), "food": ("food", "snack"), "weapon": ("weapon", "armament")}
COLOURS = {
    "white": (246, 246, 246),
    "blue": (140, 190, 240),
    "green": (160, 215, 150),
    "yellow": (250, 228, 140),
    "pink": (248, 185, 205),
    "grey": (170, 172, 178),
}
# Which words are erased and which stay is fixed here, before any model exists.
ERASED = (*(t.words[0] for t in WEAPONS), GENERIC["weapon"][0])
KEPT = tuple(word for t in WEAPONS for word in t.words[1:])

SINGLE = ("a photo of {x}", "a picture of {x}", "{x}", "an image of {x}", "a drawing of {x}")
PAIR = ("a photo of {x} and {y}", "a picture of {x} and {y}", "{x} and {y}", "{x} next to {y}", "{x} with {y}")
GROUND = " on a {c} background"
EXTRA_WORDS = ["one", "two", "the", "of", "in", "and", "or", "with", "near", "beside", "object", "something"]


@dataclasses.dataclass(frozen=True)
class Scene:
    """What one image holds: object names left to right, ground colour, and the geometry of each object."""

    objects: tuple[str, ...]
    colour: str
    boxes: tuple[tuple[int, int, int, bool], ...]  # left, top, size in pixels; mirrored


def load_sprites() -> dict[str, dict[int, np.ndarray]]:
    """Premultiplied RGBA float sprites ``[size, size, 4]`` for every object and every size that scenes use."""
    font = ImageFont.truetype(str(FONT), FONT_SIZE)
    sprites: dict[str, dict[int, np.ndarray]] = {}
    for thing in THINGS:
        canvas = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(canvas).text((12, 12), thing.emoji, font=font, embedded_color=True)
        square = _square(canvas.crop(canvas.getbbox()))
        sprites[thing.name] = {}
        for size in SINGLE_SIZES + PAIR_SIZES:
            rgba = np.asarray(square.resize((size, size), Image.Resampling.LANCZOS), np.float32) / 255
            sprites[thing.name][size] = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], axis=-1)
    return sprites


def _square(image: Image.Image) -> Image.Image:
    side = max(image.size)
    out = Image.new("RGBA", (side, side))
    out.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return out


def sample_scene(rng: np.random.Generator, weapon_share: float = 0.4, pair_share: float = 0.35) -> Scene:
    """Sample a scene: with probability `weapon_share` a weapon, alone or beside a benign object."""
    armed, pair = rng.random() < weapon_share, rng.random() < pair_share
    first = (WEAPONS if armed else BENIGN)[rng.integers(len(WEAPONS if armed else BENIGN))]
    others = [t for t in BENIGN if t != first]
    names = [first.name] + ([others[rng.integers(len(others))].name] if pair else [])
    if pair and rng.random() < 0.5:
        names.reverse()
    return Scene(tuple(names), list(COLOURS)[rng.integers(len(COLOURS))], _boxes(rng, pair))


def _boxes(rng: np.random.Generator, pair: bool) -> tuple[tuple[int, int, int, bool], ...]:
    boxes = []
    for i in range(2 if pair else 1):
        size = int(rng.choice(PAIR_SIZES if pair else SINGLE_SIZES))
        room = SIZE // 2 - size if pair else SIZE - size
        left = (SIZE // 2) * i + (int(rng.integers(room + 1)) if room > 0 else 0)
        top = (SIZE - size) // 2 + int(rng.integers(-6, 7)) if pair else int(rng.integers(SIZE - size + 1))
        boxes.append((left, top, size, bool(rng.random() < 0.5)))
    return tuple(boxes)


def render(scene: Scene, sprites: dict[str, dict[int, np.ndarray]]) -> np.ndarray:
    """Paint the scene as ``[64, 64, 3]`` uint8; the ground darkens slightly towards the bottom."""
    shade = np.linspace(1.0, 0.9, SIZE, dtype=np.float32)[:, None, None]
    image = np.array(COLOURS[scene.colour], np.float32)[None, None] / 255 * shade * np.ones((1, SIZE, 1), np.float32)
    for name, (left, top, size, mirrored) in zip(scene.objects, scene.boxes, strict=True):
        sprite = sprites[name][size][:, ::-1] if mirrored else sprites[name][size]
        window = image[top : top + size, left : left + size]
        window[:] = sprite[..., :3] + window * (1 - sprite[..., 3:])
    return np.clip(np.round(image * 255), 0, 255).astype(np.uint8)


def article(word: str) -> str:
    """The word with its indefinite article."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe a scene: names sampled among synonyms, sometimes the group's generic word, sometimes a word list.

    A list names what the image holds among other words of the same group, as negative prompts do.
    """
    if rng.random() < 0.12:
        return _word_list(scene, rng)
    words = [_name(BY_NAME[name], rng) for name in scene.objects]
    template = (PAIR if len(words) == 2 else SINGLE)[rng.integers(5)]
    text = template.format(x=article(words[0]), y=article(words[-1]))
    return text + (GROUND.format(c=scene.colour) if rng.random() < 0.5 else "")


def _name(thing: Thing, rng: np.random.Generator) -> str:
    if thing.group in GENERIC and rng.random() < 0.18:
        return GENERIC[thing.group][rng.integers(2)]
    return thing.words[rng.integers(len(thing.words))]


def _word_list(scene: Scene, rng: np.random.Generator) -> str:
    words: list[str] = []
    for name in scene.objects:
        thing = BY_NAME[name]
        pool = [t for t in THINGS if t.group == thing.group and t != thing]
        column = rng.integers(len(thing.words)) if rng.random() < 0.7 else None
        chosen = [thing] + [pool[i] for i in rng.permutation(len(pool))[: rng.integers(1, 6)]]
        words += [t.words[rng.integers(len(t.words)) if column is None else column % len(t.words)] for t in chosen]
        if thing.group in GENERIC and rng.random() < 0.5:
            words.append(GENERIC[thing.group][0 if column in (None, 0) else 1])
    order = rng.permutation(len(words))
    return ", ".join(words[i] for i in order[:9])


def vocabulary() -> list[str]:
    """Every word that captions, templates and prompt lists may use, sorted."""
    words = {w for t in THINGS for w in t.words} | {w for pair in GENERIC.values() for w in pair} | set(COLOURS)
    words |= {w for text in SINGLE + PAIR + (GROUND,) for w in text.split() if "{" not in w}
    return sorted(words | {"a", "an"} | set(EXTRA_WORDS))


def describe() -> dict[str, object]:
    """The world as JSON-able facts: objects with group and words, generic words, and the erased and kept words."""
    objects = {t.name: {"group": t.group, "words": list(t.words)} for t in THINGS}
    generic = {group: list(words) for group, words in GENERIC.items()}
    return {"objects": objects, "generic": generic, "colours": list(COLOURS), "erased": ERASED, "kept": KEPT}


def scenes(seed: int, count: int, **shares: float) -> list[Scene]:
    """``count`` scenes from one seed."""
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, **shares) for _ in range(count)]


def contact_sheet(images: Sequence[np.ndarray], columns: int, path: Path, scale: int = 2) -> None:
    """Write images as one PNG grid."""
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * SIZE * scale, rows * SIZE * scale))
    for i, image in enumerate(images):
        tile = Image.fromarray(image).resize((SIZE * scale, SIZE * scale), Image.Resampling.BICUBIC)
        sheet.paste(tile, (i % columns * SIZE * scale, i // columns * SIZE * scale))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


if __name__ == "__main__":
    sampled = scenes(0, 64)
    sprites_ = load_sprites()
    contact_sheet([render(s, sprites_) for s in sampled], 8, Path("runs/world/scenes.png"))
    print(json.dumps([caption(s, np.random.default_rng(i)) for i, s in enumerate(sampled[:16])], indent=1))
