"""`python -m ine_jax.cli` runs `ine`."""

import sys

from ine_jax.cli.main import main

sys.exit(main())
