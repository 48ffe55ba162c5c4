"""Samplers as pure (init, step) pairs, and the forward process they invert.

`from_config` reads a `scheduler_config.json`; `Ddim`, `DpmSolver2M`, `Pndm` and `Euler` are the values it returns.
"""

import math
from collections.abc import Callable, Mapping

from ine_jax.errors import InputError
from ine_jax.schedulers.base import AnyScheduler, Scheduler, State, Tables
from ine_jax.schedulers.ddim import Ddim
from ine_jax.schedulers.dpm import DpmSolver2M
from ine_jax.schedulers.euler import Euler
from ine_jax.schedulers.noise import NoiseConfig, Settings, add_noise, alphas_cumprod, target
from ine_jax.schedulers.pndm import Pndm

__all__ = [
    "AnyScheduler",
    "Ddim",
    "DpmSolver2M",
    "Euler",
    "NoiseConfig",
    "Pndm",
    "Scheduler",
    "Settings",
    "State",
    "Tables",
    "add_noise",
    "alphas_cumprod",
    "from_config",
    "target",
]

READERS: Mapping[str, Callable[[Settings], AnyScheduler]] = {
    "ddim": Ddim.from_dict,
    "dpm++": DpmSolver2M.from_dict,
    "pndm": Pndm.from_dict,
    "euler": Euler.from_dict,
}
CLASSES = {
    "DDIMScheduler": "ddim",
    "DPMSolverMultistepScheduler": "dpm++",
    "PNDMScheduler": "pndm",
    "EulerDiscreteScheduler": "euler",
}
# Settings that change the images and are not implemented, by the samplers that they belong to.
UNSUPPORTED = {
    "thresholding": ("ddim", "dpm++"),
    "use_exponential_sigmas": ("dpm++", "euler"),
    "use_beta_sigmas": ("dpm++", "euler"),
    "use_lu_lambdas": ("dpm++",),
    "use_flow_sigmas": ("dpm++",),
    "use_dynamic_shifting": ("dpm++",),
}
# The other keys that diffusers writes for these classes: read by one of them, or idle while the above are off.
KNOWN_KEYS = """
    num_train_timesteps beta_start beta_end beta_schedule trained_betas prediction_type timestep_spacing steps_offset
    rescale_betas_zero_snr clip_sample clip_sample_range set_alpha_to_one skip_prk_steps solver_order algorithm_type
    solver_type lower_order_final euler_at_final final_sigmas_type use_karras_sigmas lambda_min_clipped variance_type
    interpolation_type timestep_type sigma_min sigma_max dynamic_thresholding_ratio sample_max_value flow_shift
    time_shift_type solver_p predict_x0 disable_corrector rho"""
KNOWN = frozenset(KNOWN_KEYS.split())


def _check_keys(config: Settings, name: str) -> None:
    """Raise `InputError` for an unknown setting that could change the images."""
    learned = name == "dpm++" and str(config.get("variance_type") or "").startswith("learned")
    for key, value in config.items():
        unknown = key not in KNOWN and key not in UNSUPPORTED and not key.startswith("_")
        if value and (unknown or name in UNSUPPORTED.get(key, ()) or (key == "variance_type" and learned)):
            given = f"Scheduler setting {key}: {value!r}."
            allowed = f"{key} absent, null or false; {name} has no such mode"
            raise InputError(given, allowed, "Remove it from scheduler_config.json, or choose another sampler.")


def from_config(config: Settings, name: str | None = None) -> AnyScheduler:
    """Return the sampler that a `scheduler_config.json` dictionary describes, with diffusers' keys and defaults.

    A Flax class name means the same sampler. `name` ("ddim", "dpm++", "pndm" or "euler") replaces the file's class and
    keeps its other settings. Raises InputError for an unknown class, or a setting that is not implemented.
    """
    written = str(config.get("_class_name", ""))
    chosen = name if name is not None else CLASSES.get(written.removeprefix("Flax"), "")
    if chosen not in READERS:
        given = f"Sampler {name!r}." if name is not None else f"Scheduler class {written or '(none)'!r}."
        allowed = f"{', '.join(READERS)}, or the classes {', '.join(CLASSES)}"
        raise InputError(given, allowed, "Name one of them as the scheduler.")
    _check_keys(config, chosen)
    try:
        if not all(math.isfinite(value) for value in config.values() if isinstance(value, float)):
            raise ValueError("a number that is not finite")
        return READERS[chosen](config)
    except (TypeError, ValueError, OverflowError) as error:  # null or text where a number belongs, a number too large
        given = f"Scheduler settings: {str(error)[:120]}."
        raise InputError(given, "numbers as diffusers writes them", "Correct scheduler_config.json.") from error
