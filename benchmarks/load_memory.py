"""Peak memory of reading a full-size Stable Diffusion checkpoint, as a multiple of its size.

    PYTHONPATH=. python benchmarks/load_memory.py [--family sd1] [--dtype float32] [--folder runs/load_memory]

Writes a model of zeros with the published shapes (random bytes would read the same) in each format, and reads each in a
process of its own: the pipeline folder, the CompVis file as safetensors and as ``torch.save`` writes it, the Flax
folder. Prints peak resident memory above that of the imports, whole and without pages of files. Needs about four times
the model's size on disk; PyTorch for the ``.ckpt`` (left out where it is not installed).
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

LIMIT = 1.25  # times the size of the files that are read
_CHILD = """
import json, sys, threading, time
from ine_jax.models.checkpoints import names, pipeline_folder
import jax, jax.numpy as jnp

def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

jnp.zeros(1).block_until_ready()
before, peak, running = {key: status(key) for key in ("VmRSS", "RssAnon")}, {"VmRSS": 0, "RssAnon": 0}, True

def watch():
    while running:
        for key in peak:
            peak[key] = max(peak[key], status(key))
        time.sleep(0.005)

watcher = threading.Thread(target=watch)
watcher.start()
start = time.perf_counter()
base, dtype, *unlearned = sys.argv[1:]
parts = pipeline_folder.read_pipeline(base, dtype=dtype, unlearned=unlearned)
seconds = time.perf_counter() - start
running = False
watcher.join()
held = sum(leaf.nbytes for leaf in jax.tree.leaves((parts.text_params, parts.unet_params, parts.vae_params)))
peak["VmRSS"] = max(peak["VmRSS"], status("VmHWM"))
print(json.dumps({"seconds": seconds, "held": held, **{key: peak[key] - before[key] for key in peak}}))
"""


def write_models(family: str, dtype: str, root: Path) -> dict[str, tuple[list[str], int]]:
    """Folders and files of every format; name → (arguments of the child, size in bytes of what it reads)."""
    from test_checkpoints_full import configs_of, original_shapes, sparse

    from ine_jax.models.checkpoints import configs, names
    from ine_jax.models.checkpoints.recognize import STEMS
    from ine_jax.models.parts import COMPONENTS
    from ine_jax.storage.atomic import write_json
    from tests.support.tiny_pipeline import SCHEDULER, write_tokenizer

    code, base = {"float32": "F32", "float16": "F16"}[dtype], root / "base"
    if not (base / "tokenizer").is_dir():
        write_tokenizer(base / "tokenizer")
    write_json(base / "scheduler" / "scheduler_config.json", SCHEDULER, indent=2)
    write_json(base / "model_index.json", {**COMPONENTS, "scheduler": ["diffusers", "DDIMScheduler"]}, indent=2)
    weights = []
    for part, config in configs_of(family).items():
        write_json(base / part / "config.json", configs.config_json(config), indent=2)
        weights.append(sparse(base / part / f"{STEMS[part]}.safetensors", names.torch_shapes(config), code))
    shapes = original_shapes(family)
    single = sparse(root / "compvis.safetensors", shapes, code)
    size = sum(path.stat().st_size for path in weights)
    found = {"pipeline folder, safetensors": ([str(base)], size)}
    found["CompVis file, safetensors"] = ([str(base), str(single)], single.stat().st_size)
    try:
        import torch
    except ImportError:
        return found
    ckpt = root / "compvis.ckpt"
    zeros = {name: torch.zeros(shape, dtype=getattr(torch, dtype)) for name, shape in shapes.items()}
    torch.save({"state_dict": zeros, "global_step": 1}, ckpt)
    return found | {"CompVis file, torch.save": ([str(base), str(ckpt)], ckpt.stat().st_size)}


def write_flax(root: Path, dtype: str) -> tuple[list[str], int]:
    """The same model as a folder of diffusers' Flax era."""
    from ine_jax.models.checkpoints import pipeline_folder

    parts = pipeline_folder.read_pipeline(root / "base", dtype=dtype)
    out = pipeline_folder.write_pipeline(parts, root / "flax", dtype, "flax")
    return [str(out)], sum(path.stat().st_size for path in out.rglob("*.msgpack"))


def measure(arguments: list[str], dtype: str) -> dict[str, Any]:
    """Read one model in a fresh process."""
    words = [sys.executable, "-c", _CHILD, arguments[0], dtype, *arguments[1:]]
    done = subprocess.run(words, capture_output=True, text=True, check=True)  # noqa: S603  our own words
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    """Write, read, print a table; 1 where a peak reaches the limit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--family", choices=("sd1", "sd2"), default="sd1")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--folder", type=Path, default=Path("runs/load_memory"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    models = write_models(options.family, options.dtype, options.folder)
    models["pipeline folder, Flax"] = write_flax(options.folder, options.dtype)
    worst = 0.0
    sys.stdout.write(
        f"{options.family} {options.dtype} on {time.strftime('%Y-%m-%d')}: peak above imports / size of files\n"
    )
    for name, (arguments, size) in models.items():
        found = measure(arguments, options.dtype)
        ratios = {key: found[key] / size for key in ("VmRSS", "RssAnon")}
        worst = max(worst, ratios["VmRSS"])
        sys.stdout.write(
            f"{name:<30} {size / 1e9:5.2f} GB  resident {found['VmRSS'] / 1e9:5.2f} GB = {ratios['VmRSS']:.3f} x  "
            f"without file pages {ratios['RssAnon']:.3f} x  {found['seconds']:.0f} s\n"
        )
    sys.stdout.write(f"largest {worst:.3f} x, limit {LIMIT} x\n")
    return int(worst >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
