"""An evaluation of stand-ins into a directory or bucket, as a process of its own:

    python -m tests.support.bucket_child --out PLACE [--shard I/N]

72 images in 24 blocks. Nothing is compiled or trained: what is slow is the storage.
"""

import contextlib
import sys
from pathlib import Path

from ine_jax.evaluation import evaluate, score
from ine_jax.storage import runs
from ine_jax.storage.bucket import address, mirror
from tests.support import fakes

IMAGES = 72

if __name__ == "__main__":
    out = sys.argv[sys.argv.index("--out") + 1]
    part = sys.argv[sys.argv.index("--shard") + 1] if "--shard" in sys.argv else "0/1"
    index, total = map(int, part.split("/"))
    shard = (index, total)
    opened = mirror.working(address.parse(out)) if address.is_address(out) else contextlib.nullcontext(Path(out))
    with opened as root, runs.writing(root, shard):
        run = evaluate(fakes.plan(block=3), root, generate=fakes.slow_generate, hashes=fakes.hashes, shard=shard)
        score(run, [fakes.Corner()], shard=shard)
