"""Write the hashes of the bundled family, which are compared before any of its files is used.

python -m scripts.train_world.manifest
"""

import argparse
from pathlib import Path

from ine_jax import assets


def write_manifest(root: Path) -> None:
    """Write the manifest beside the family's folder."""
    (root / assets.MANIFEST).write_text(assets.manifest(root))


def main() -> None:
    """Write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, default=assets.ROOT)
    write_manifest(parser.parse_args().assets)


if __name__ == "__main__":
    main()
