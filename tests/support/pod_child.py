"""One process of a training run on several, that a test may kill: a JSON object with the fields of `main`."""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ine_jax import progress


class Pace:
    """Takes `seconds` for every step, and forever after one of them."""

    def __init__(self, seconds: float, stuck_at: int) -> None:
        self.seconds, self.stuck_at = seconds, stuck_at

    def update(self, step: int, metrics: object) -> None:
        time.sleep(10_000 if step == self.stuck_at else self.seconds)


def toy(out: str, steps: int, pace: Pace, count: bool) -> None:
    """The shared loop and step, over rows of noise: hardly anything to compile. Part 0 has six steps."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from ine_jax.pipeline.mesh import device_mesh, everywhere
    from ine_jax.training import loop
    from ine_jax.training.rows import Share, normal_rows
    from ine_jax.training.step import compiled_step, first_state

    @dataclass(frozen=True)
    class Toy:
        mesh: jax.sharding.Mesh

        def loss(self, vectors: Any, frozen: Any, data: Any, i: Any, share: Share) -> Any:
            numbers, real = share.rows(10)
            noise = normal_rows(jax.random.fold_in(jax.random.key(7), i), numbers, (3,))
            errors = jnp.square(jnp.tanh(vectors[numbers // 5] * frozen) - noise).sum(1) * real
            return errors.sum(), {"loss": errors.sum()}

        def running(self, data: Any, i: Any) -> Any:
            return i < data

        def factor(self) -> optax.Schedule:
            return optax.constant_schedule(1.0)

        def rule(self, rate: Any) -> optax.GradientTransformation:
            return optax.adam(rate)

        def finish(self, vectors: Any, metrics: Any, data: Any, i: Any, rate: Any) -> Any:
            return vectors, metrics

    problem, first = Toy(device_mesh(jax.devices())), np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    data, frozen = everywhere((np.array([6, steps], np.int32), np.float32(0.7)), problem.mesh)
    step = compiled_step(problem)
    if count:
        text = jax.jit(step).lower(frozen, data, first_state(problem, first, 0.01), 0).compile().as_text()
        (Path(out).parent / "program.txt").write_text(text or "")
    final = loop.run(
        lambda state, i: step(frozen, data, state, i),
        first_state(problem, first, 0.01),
        steps=steps, directory=out, save_every=4, config={}, progress=pace,
    )  # fmt: skip
    if jax.process_index() == 0:
        (Path(out) / "vectors.bin").write_bytes(np.asarray(final.trained).tobytes())


def real(out: str, steps: int, pace: Pace, model: str, cache: str, erase: bool) -> None:
    """An inversion, or an erasure, on a random model."""
    import numpy as np

    from ine_jax.config import EsdConfig, InversionConfig
    from ine_jax.inversion import invert
    from ine_jax.pipeline.pipeline import load
    from ine_jax.unlearning import esd

    pipe = load(Path(model), batch_size=2, compile_cache=cache)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    if erase:
        erasure = EsdConfig(
            erase=("a knife",), preserve=("a cat",), steps=steps, batch=3, preserve_batch=2, preserve_weight=1.0,
            ddim_steps=2, pool=4, log_every=1, save_every=2,
        )  # fmt: skip
        esd.erase(pipe, erasure, out, pace, preserve_images=images)
        return
    config = InversionConfig(concept="thing", steps=steps, batch=6, save_every=3, log_every=1, templates=("a {}",))
    invert(pipe, images, config, out, pace, preview=False)


def main(
    outs: list[str],
    kind: str = "toy",
    steps: int = 12,
    place: list | None = None,
    timeout: float = 5.0,
    stuck_at: int = 0,
    pace: float = 0.0,
    model: str = "",
    cache: str = "",
    count: bool = False,
) -> int:
    progress.receive_signals()
    from ine_jax.errors import IneError
    from ine_jax.training import pod
    from ine_jax.training.rendezvous import Place

    try:
        member = None if place is None else pod.join(Place(*place), timeout)
        with pod.member(member):
            for out in outs:
                if kind == "toy":
                    toy(out, steps, Pace(pace, stuck_at), count)
                else:
                    real(out, steps, Pace(pace, stuck_at), model, cache, kind == "erase")
        code = 0
    except IneError as error:
        sys.stderr.write(f"{error}\n")
        code = error.exit_code
    progress.ignore_signals()
    pod.leave(code)
    return code


if __name__ == "__main__":
    sys.exit(main(**json.loads(sys.argv[1])))
