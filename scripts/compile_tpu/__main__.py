"""Compile full-size Stable Diffusion 1.x for TPUs on a machine without one.

    pip install "ine_jax[tpu]"
    python -m scripts.compile_tpu "sampler step" v5e:1x1 16
    python -m scripts.compile_tpu --page docs/tpu.md

The first form compiles one case, adds it to the stored results and prints the table; a full-size sampler step takes
about 10 CPU minutes. The second one writes the table of the stored results into the page.
"""

import argparse
import os
from pathlib import Path

from ine_jax.pipeline.tpu import enlarge_stacks

STORED = Path("benchmarks/tpu.json")


def main() -> None:
    """Compile a case, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", help="sampler step, sampler loop, decoder, text encoder, inversion step")
    parser.add_argument("topology", nargs="?", help="such as v5e:1x1, v5e:16x16, v6e:1x1 or v4:1x1x1")
    parser.add_argument("rows", nargs="?", type=int, help="rows of the network, images or prompts per device")
    parser.add_argument("--out", type=Path, default=STORED, help="the stored results (default: %(default)s)")
    parser.add_argument("--page", type=Path, help="write the table into this page")
    args = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"  # the library describes TPUs; JAX must not look for one
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # nothing here uses the chips that its lock protects
    enlarge_stacks()
    from scripts.compile_tpu import results

    if args.rows is not None:
        results.store(args.out, results.compiled(results.Case(args.program, args.topology, args.rows)))
    stored = results.read(args.out)
    print(results.table(stored))
    if args.page:
        results.insert(args.page, stored)


if __name__ == "__main__":
    main()
