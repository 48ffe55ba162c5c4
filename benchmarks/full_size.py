"""Full-size Stable Diffusion 1.x on this machine: one step of sampling and one of inversion, beside diffusers.

    python benchmarks/full_size.py --repeats 2

Random weights in float32, 64 × 64 latents. A sampling step is one call of the UNet with two rows (classifier-free
guidance). An inversion step differentiates the squared error of one row with respect to its text context. Every
contender runs in a process of its own, one after the other. Prints the fastest and the slowest of the repeats, the CPU
seconds of the cheapest one, the peak memory of the process, and the speed against PyTorch by either clock. On a shared
machine only the CPU seconds can be compared.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

ROWS = {"sampling": 2, "inversion": 1}
SHAPE, CONTEXT = (64, 64, 4), (77, 768)


def inputs(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return latents, timesteps and contexts."""
    rng = np.random.default_rng(0)
    normal = [rng.standard_normal((rows, *shape)).astype(np.float32) for shape in (SHAPE, CONTEXT)]
    return normal[0], np.full((rows,), 500.0, np.float32), normal[1]


def in_jax(apply: Callable[..., Any], params: Any, task: str) -> Callable[[], object]:
    """Return one compiled step of a Flax UNet in the layout of `inputs`."""
    import jax

    latents, times, context = jax.device_put(inputs(ROWS[task]))

    def loss(context: Any, params: Any) -> Any:
        return ((apply(params, latents, times, context) - latents) ** 2).mean()

    def sampling(context: Any, params: Any) -> Any:
        return apply(params, latents, times, context)

    run = jax.jit(jax.grad(loss) if task == "inversion" else sampling)
    return lambda: jax.block_until_ready(run(context, params))


def random_params(init: Callable[[], Any]) -> Any:
    """Return random parameters of a network's shapes; their values change no time."""
    import jax

    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(init)["params"]
    return jax.tree.map(lambda x: jax.device_put(0.02 * rng.standard_normal(x.shape, np.float32)), shapes)


def ours(task: str) -> Callable[[], object]:
    """This package."""
    import jax

    from ine_jax.models.unet import UNet, UNetConfig
    from ine_jax.pipeline.programs import native_unet

    config = UNetConfig()
    params = random_params(lambda: UNet(config).init(jax.random.key(0), *inputs(1)))
    return in_jax(native_unet(config, np.float32, "cpu"), params, task)


def diffusers_flax(task: str) -> Callable[[], object]:
    """The Flax UNet of diffusers 0.39."""
    import jax
    from diffusers.models.unets.unet_2d_condition_flax import FlaxUNet2DConditionModel

    from ine_jax.pipeline.programs import diffusers_unet

    unet = FlaxUNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    latents, times, context = jax.device_put(inputs(1))
    planes = latents.transpose(0, 3, 1, 2)
    params = random_params(lambda: unet.init(jax.random.key(0), planes, times, context))
    config = {"sample_size": 64, "cross_attention_dim": 768}
    return in_jax(diffusers_unet(json.dumps(config), np.float32), params, task)


def pytorch(task: str) -> Callable[[], object]:
    """The PyTorch UNet of diffusers, two threads."""
    import torch
    from diffusers import UNet2DConditionModel

    torch.set_num_threads(2)
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768).eval().requires_grad_(False)
    latents, times, context = (torch.from_numpy(x) for x in inputs(ROWS[task]))
    latents = latents.permute(0, 3, 1, 2).contiguous()

    def inversion() -> object:
        given = context.clone().requires_grad_()
        ((unet(latents, times, given).sample - latents) ** 2).mean().backward()
        return given.grad

    def sampling() -> object:
        with torch.inference_mode():
            return unet(latents, times, context).sample

    return inversion if task == "inversion" else sampling


CONTENDERS = {"PyTorch": pytorch, "this package": ours, "diffusers Flax": diffusers_flax}


def measure(name: str, task: str, repeats: int) -> None:
    """Print the seconds of each repeat and the peak memory, after one call that is not counted."""
    run, seconds, cpu = CONTENDERS[name](task), [], []
    run()
    for _ in range(repeats):
        begun = time.perf_counter(), time.process_time()
        run()
        seconds.append(time.perf_counter() - begun[0])
        cpu.append(time.process_time() - begun[1])
    print(json.dumps([seconds, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6]))


def main() -> None:
    """Measure every contender."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--one", nargs=2, metavar=("CONTENDER", "TASK"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(*args.one, args.repeats)
        return
    for task in args.tasks:
        found = {}
        for name in CONTENDERS:
            command = [sys.executable, __file__, "--repeats", str(args.repeats), "--one", name, task]
            done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
            found[name] = json.loads(done.stdout.splitlines()[-1])
            print(task, name, found[name], file=sys.stderr, flush=True)
        print(f"{task:16}{'seconds':>18}{'CPU s':>8}{'GB':>6}{'speed':>8}{'by CPU s':>10}")
        reference = found["PyTorch"]
        for name, (seconds, cpu, memory) in found.items():
            times = f"{min(seconds):.1f} to {max(seconds):.1f}"
            ratios = min(reference[0]) / min(seconds), min(reference[1]) / min(cpu)
            print(f"{name:16}{times:>18}{min(cpu):>8.1f}{memory:>6.1f}{ratios[0]:>7.2f}x{ratios[1]:>9.2f}x")


if __name__ == "__main__":
    main()
