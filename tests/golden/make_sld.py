"""Write sld.npz: python tests/golden/make_sld.py (needs torch and diffusers).

Final latents of diffusers' StableDiffusionPipelineSafe on a small random model, for every case of
`tests/support/sld_reference.py`.
"""

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import numpy as np  # noqa: E402

from tests.support.sld_reference import quiet_model, reference  # noqa: E402

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        np.savez_compressed(HERE / "sld.npz", **reference(quiet_model(Path(scratch))))  # type: ignore[arg-type]
