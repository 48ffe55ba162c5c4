"""The program `ine`, as `python -m ine_jax`."""

import sys

from ine_jax.cli.__main__ import program

if __name__ == "__main__":
    sys.exit(program())
