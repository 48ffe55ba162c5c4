"""Put the trained parts together as the bundled family: pipeline folder, detector, unlearned variants.

    python -m scripts.train_world.assemble --unlearned runs/unlearn-0 runs/unlearn-1
    python -m scripts.train_world.assemble --methods uce=runs/unlearn-tiny-uce/unet.safetensors

With `--methods` only these files are added, as `tiny-uce` and so on, and the rest of the family stays. Everything is
stored as float16.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import safetensors.numpy

from ine_jax.models.checkpoints.pipeline_folder import read_pipeline, write_pipeline
from scripts.train_world.manifest import write_manifest


def halve(path: Path) -> None:
    """Rewrite a safetensors file with float16 tensors, metadata kept."""
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    tensors = {k: v.astype(np.float16) for k, v in safetensors.numpy.load_file(path).items()}
    safetensors.numpy.save_file(tensors, path, metadata)
    path.chmod(0o644)


def main() -> None:
    """Assemble the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", type=Path, default=Path("runs/world/unet/pipeline"))
    parser.add_argument("--detector", type=Path, default=Path("runs/world/detector"))
    parser.add_argument("--unlearned", type=Path, nargs="*", default=[])
    parser.add_argument("--methods", nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--out", type=Path, default=Path("ine_jax/assets/tiny"))
    args = parser.parse_args()

    if args.methods:
        for name, _, file in (given.partition("=") for given in args.methods):
            target = args.out / "unlearned" / f"{name}.safetensors"
            shutil.copy(file, target)
            halve(target)
        write_manifest(args.out.parent)
        return
    write_pipeline(read_pipeline(args.pipeline), args.out)
    (args.out / "detector").mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(args.detector / name, args.out / "detector" / name)
    halve(args.out / "detector" / "model.safetensors")
    (args.out / "unlearned").mkdir(exist_ok=True)
    for number, folder in enumerate(args.unlearned):
        shutil.copy(folder / "unet.safetensors", args.out / "unlearned" / f"{number}.safetensors")
        halve(args.out / "unlearned" / f"{number}.safetensors")
    write_manifest(args.out.parent)


if __name__ == "__main__":
    main()
