"""`python -m ine_jax.cli` is `ine`."""

import sys

from ine_jax.cli.main import main

sys.exit(main())
