"""Write the bundled family's CARD.md from what was measured; no figure in it is typed.

    python -m scripts.train_world.card --demo runs/demo-full --eye "2 of 100"

Reads the logs under runs/world, every setting in runs/world/tried.jsonl and the summary of a full demo. ``--eye`` is
what a person counted on runs/world/check.png (sheets.py): images on which the detector was wrong.
"""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

from ine_jax.report.tables import escape, markdown, sentences

ASSETS = Path("ine_jax/assets/tiny")
TEXT = """\
# The bundled family: a small world with something to forget

Sixteen harmless objects and six weapons of Noto Color Emoji, alone or in pairs on six grounds, described by a small
grammar with synonyms for every object. The models are a text-to-image latent diffusion family in diffusers' layout:
an autoencoder (64 x 64 pixels to 8 x 8 x 8), a frozen random CLIP text encoder, a UNet, a detector for the world's
objects, and two *unlearned* variants of the UNet (ESD on the keys and values of the cross-attention, with this
project's benign preservation term). Emoji stand in for harmful images, so nobody has to look at any.

![64 samples of the base model: the first 32 benign and the first 32 explicit prompts reported](samples.png)

## How it was made

Commands in order: `docs/reproducing.md`. On 2 CPU cores (no GPU), which other work shared; times are wall-clock times
of the logs. This card was written at commit {commit}.

| part | steps | batch | seed | minutes | loss at the end |
|---|---|---|---|---|---|
{parts}

Which words are erased ({erased}) and which stay ({kept}) was fixed in `scripts/train_world/world.py` before any model
existed. Text encoder: drawn at random with seed 0, never trained.

## Measured

Detector: {detector}; on 100 generated images looked at by a person it was wrong on {eye}
(`scripts/train_world/sheets.py`).

Table of `{command}` (lists `attack`, `benign`, `explicit`, `generic`, `list`; 95 % Wilson intervals).
DSR: share of attack images without a weapon. Kept: share of benign images that show every object asked for.
Drawn: share that show a weapon.

{table}

{sentences}

## What was chosen, and on what

w = {w:g}, s = {s:g}, {scheduler} with {steps} steps, the explicit words "{words}", the implicit template
"{template}", {vectors} learned vectors, erasure strength and inversion length were chosen on the lists `tune-*`,
which share no prompt and no seed with the lists above. Rules: w was taken over from a first family, where w = 2, 3 and
5 did not differ beyond their errors; s on the *base* model alone: of the settings below with which words defend at
least 0.6 of the explicit-word prompts, the one that keeps most benign prompts; erasure: explicit, generic and list
prompts at most 0.10, attack prompts still at least 0.5 drawn; inversion and template at that s on unlearned model 0: of
the settings measured with two inversion seeds, those that lose at most 0.03 of the benign prompts in the mean (0.05
less 1.65 standard errors of the paired difference; this bound was set when most of the table had been measured), and of
these the one that defends most. The names of inversions say how many vectors, which templates (`five`: a photo, a
picture, an image, a drawing of a, a), how many steps and which seed.

Every setting that was measured, in order (rates on `tune-*`):

| model | negative | w | s | guard | rates |
|---|---|---|---|---|---|
{tried}

{reading}
## Licence

`LICENSE.md`.
"""


def part(name: str, folder: Path) -> str:
    """One row of the table of trainings, from its log, timing and config."""
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    times = [json.loads(line)["time"] for line in (folder / "timing.jsonl").read_text().splitlines()]
    config = json.loads((folder / "config.json").read_text())
    config = config.get("esd", config)
    # the first line of the timing is written log_every steps after the start
    minutes = (times[-1] - times[0]) / 60 * len(times) / max(1, len(times) - 1)
    return (
        f"| {name} | {log[-1]['step']} | {config['batch']} | {config['seed']} | {minutes:.0f} | {log[-1]['loss']:.4f} |"
    )


def tried(line: str) -> str:
    """One row of the table of settings."""
    setting: dict[str, Any] = json.loads(line)
    model = Path(setting["delta"]).parent.name if "delta" in setting else setting.get("model", "tiny")
    given = setting.get("negative", {})
    words = given.get("words", ())
    negative = f'"{", ".join([words] if isinstance(words, str) else words)}"' if words else "none"
    if given.get("embedding"):
        inverted = Path(given["embedding"])
        negative = f'embedding {inverted.parent.name or inverted.name} in "{given.get("template", "{}")}"'
    guidance = {"scale": 3.0, **setting.get("guidance", {})}
    rest = {key: value for key, value in guidance.items() if key not in ("scale", "negative_scale")}
    rates = ", ".join(
        f"{name.removeprefix('tune-')} {key} {value:.3f}"
        for name, rate in setting["rates"].items()
        for key, value in rate.items()
        if key != "n"
    )
    options = escape(", ".join(f"{key} {json.dumps(value)}" for key, value in rest.items()))
    return (
        f"| {model} | {negative} | {guidance['scale']:g} | {guidance.get('negative_scale', '')} | {options} | {rates} |"
    )


def main() -> None:
    """Write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo-full"))
    parser.add_argument("--world", type=Path, default=Path("runs/world"))
    parser.add_argument("--unlearned", type=Path, nargs="*", default=[Path("runs/unlearn-0"), Path("runs/unlearn-1")])
    parser.add_argument("--reading", type=Path, default=Path("scripts/train_world/reading.md"))
    parser.add_argument("--eye", required=True)
    args = parser.parse_args()
    world = json.loads((ASSETS / "world.json").read_text())
    summary = json.loads((args.demo / "summary.json").read_text())
    settings, report = world["settings"], json.loads((args.world / "detector" / "report.json").read_text())
    trained = {"autoencoder": "vae", "detector": "detector/train", "UNet": "unet"}
    rows = [part(name, args.world / f) for name, f in trained.items() if (args.world / f / "log.jsonl").exists()]
    rows += [part(f"unlearned {i}", folder) for i, folder in enumerate(args.unlearned)]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    detector = ", ".join(
        f"{value['exact']:.4f} of {value['n']} held-out {name} with every label right, {value['weapon']:.4f} with the "
        f"weapon question right"
        for name, value in report.items()
    )
    text = TEXT.format(
        commit=commit.strip(),
        parts="\n".join(rows),
        erased=", ".join(world["erased"]),
        kept=", ".join(world["kept"]),
        detector=detector,
        eye=args.eye,
        command="ine demo --full",
        table=markdown(summary),
        sentences="\n".join(f"- {line}" for line in sentences(summary)),
        w=settings["guidance_scale"],
        s=settings["negative_scale"],
        scheduler=settings["scheduler"],
        steps=settings["steps"],
        words=", ".join(settings["explicit_negative"]),
        template=settings["implicit_template"],
        vectors=settings["inversion"].get("vectors", 1),
        tried="\n".join(tried(line) for line in (args.world / "tried.jsonl").read_text().splitlines()),
        reading=args.reading.read_text() + "\n" if args.reading.exists() else "",
    )
    (ASSETS / "CARD.md").write_text(text)


if __name__ == "__main__":
    main()
