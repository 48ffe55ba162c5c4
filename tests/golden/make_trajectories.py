"""Write trajectories.safetensors: PYTHONPATH=. python tests/golden/make_trajectories.py (needs torch and diffusers).

Each case of `trajectories.py` is run by diffusers' PyTorch sampler; the latents after every tenth network call
and after the last are kept.
"""

from importlib.metadata import version

from safetensors.numpy import save_file

from tests.support.trajectories import CASES, GOLDEN, kept, torch_run


def main() -> None:
    """Run every case and write the file."""
    tensors = {}
    for case in CASES:
        history, _ = torch_run(case)
        tensors[case.name] = history[kept(len(history))]
    save_file(tensors, GOLDEN, {"diffusers": version("diffusers"), "torch": version("torch")})


if __name__ == "__main__":
    main()
