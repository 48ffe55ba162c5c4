"""Inversion and ESD on two devices give what they give on one, up to the order of sums."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.devices import printed

CHILD = """
import json, sys
from pathlib import Path
import jax, numpy as np
from ine_jax.config import EsdConfig, InversionConfig
from ine_jax.inversion import invert
from ine_jax.pipeline.pipeline import load
from ine_jax.unlearning import esd
from ine_jax.unlearning.layers import trained

folder, out = Path(sys.argv[1]), Path(sys.argv[2])
images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
inversion = InversionConfig(concept="thing", steps=2, batch=4, log_every=1, templates=("a {}",))
erasure = EsdConfig(erase=("a knife",), preserve=("a cat",), steps=2, batch=3, preserve_batch=1, preserve_weight=1.0,
                    ddim_steps=2, pool=4, log_every=1)
found = {}
for count in (1, 2):
    pipe = load(folder, devices=jax.devices()[:count], batch_size=4, compile_cache=False)
    vectors = invert(pipe, images, inversion, out / f"invert{count}", preview=False).embedding.vectors
    params = esd.erase(pipe, erasure, out / f"esd{count}", preserve_images=images).params
    weights = trained(params, erasure.method)
    found[count] = {"vectors": np.asarray(vectors).tolist(), "weights": [float(abs(w).sum()) for w in weights.values()]}
print(json.dumps({"devices": len(jax.devices()), "found": found}))
"""


@pytest.mark.slow
def test_two_devices_equal_one(tiny_folder: Path, tmp_path: Path) -> None:
    result = printed(CHILD, 2, str(tiny_folder), str(tmp_path))
    assert result["devices"] == 2
    one, two = result["found"]["1"], result["found"]["2"]
    np.testing.assert_allclose(one["vectors"], two["vectors"], atol=1e-4)
    np.testing.assert_allclose(one["weights"], two["weights"], rtol=1e-4)
    for kind in ("invert", "esd"):
        lines = [(tmp_path / f"{kind}{count}" / "log.jsonl").read_text().splitlines() for count in (1, 2)]
        for left, right in zip(*lines, strict=True):
            np.testing.assert_allclose(json.loads(left)["loss"], json.loads(right)["loss"], rtol=1e-4)
