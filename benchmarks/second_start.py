"""What a second start costs: CPU seconds until the first image of the bundled model, with an empty and a full cache.

    python benchmarks/second_start.py

Starts the same process twice on a cache of compiled programs that is empty at first. Prints for each the CPU seconds of
importing, of loading the model, and of the first and the second call (one image, 12 steps). The first call minus the
second is what tracing, lowering, and compiling or reading compiled programs cost.
"""

import itertools
import json
import subprocess
import sys
import tempfile
import time


def child(cache: str) -> None:
    """Generate twice and print the CPU seconds of each part."""
    marks = [time.process_time()]
    import ine_jax

    marks.append(time.process_time())
    pipe = ine_jax.load("tiny", compile_cache=cache)
    marks.append(time.process_time())
    for _ in range(2):
        pipe("a photo of a cat", steps=12, batch_size=1)
        marks.append(time.process_time())
    print(json.dumps([b - a for a, b in itertools.pairwise(marks)]))


def main() -> None:
    """Print both starts."""
    if len(sys.argv) > 1:
        child(sys.argv[1])
        return
    print(f"{'CPU seconds':16}{'import':>10}{'load':>10}{'first':>10}{'second':>10}")
    with tempfile.TemporaryDirectory() as cache:
        for name in ("empty cache", "full cache"):
            command = [sys.executable, __file__, cache]
            done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
            print(f"{name:16}" + "".join(f"{each:>10.1f}" for each in json.loads(done.stdout.splitlines()[-1])))


if __name__ == "__main__":
    main()
