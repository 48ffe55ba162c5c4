"""Write torch_noise.npz: python tests/golden/make_torch_noise.py (needs torch).

What ``torch.randn`` draws on the CPU for the seeds and sizes of `test_torch_noise.py`; keys are "seed/size".
"""

from pathlib import Path

import numpy as np
import torch

SEEDS = (0, 42, 2**31, 2**32 - 1)
SIZES = (1, 3, 15, 16, 20, 108)

if __name__ == "__main__":
    drawn = {
        f"{seed}/{size}": torch.randn(size, generator=torch.Generator().manual_seed(seed)).numpy()
        for seed in SEEDS
        for size in SIZES
    }
    np.savez_compressed(Path(__file__).parent / "torch_noise.npz", **drawn)  # type: ignore[arg-type]
