"""Share of the wall time of `ine evaluate` in which the device computes, from a trace of `jax.profiler`.

    python benchmarks/device_share.py configs/evaluate/tiny.yaml --limit 25 --block 25 --sampler.batch 8

The words are those of `ine evaluate`; the run goes into a temporary folder, once to compile and once to be traced. The
share counts from the first to the last operation of a program, so reading models is left out.
"""

import glob
import gzip
import json
import sys
import tempfile
import time

import jax

from ine_jax.cli import main as cli


def intervals(folder: str) -> list[tuple[float, float]]:
    """Begin and end in seconds of each operation of a compiled program in a trace."""
    (path,) = glob.glob(f"{folder}/**/*.trace.json.gz", recursive=True)
    with gzip.open(path) as file:
        events = json.load(file)["traceEvents"]
    found = [e for e in events if e.get("ph") == "X" and "hlo_module" in e.get("args", {})]
    return sorted((e["ts"] / 1e6, (e["ts"] + e["dur"]) / 1e6) for e in found)


def union(spans: list[tuple[float, float]]) -> float:
    """Seconds that at least one span covers."""
    total, until = 0.0, float("-inf")
    for begin, end in spans:
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def main(words: list[str]) -> int:
    """Run the evaluation twice and print the share of the second run."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("compile", "traced"):
            line = ["evaluate", *words, "--out", f"{folder}/{name}"]
            if name == "traced":
                options = jax.profiler.ProfileOptions()
                options.python_tracer_level, options.host_tracer_level = 0, 2
                jax.profiler.start_trace(f"{folder}/trace", profiler_options=options)
            begun = time.monotonic()
            if code := cli.main(line):
                return code
            seconds = time.monotonic() - begun
        jax.profiler.stop_trace()
        spans = intervals(f"{folder}/trace")
    window = max(end for _, end in spans) - spans[0][0]
    sys.stdout.write(f"{seconds:.1f} s, device window {window:.1f} s, busy {100 * union(spans) / window:.1f} %\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
