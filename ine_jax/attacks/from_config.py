"""From config records to what is attacked."""

from ine_jax.attacks.target import Target
from ine_jax.config import AttackConfig
from ine_jax.config.white_box import WhiteBoxConfig
from ine_jax.errors import InputError
from ine_jax.guidance import from_config as guards
from ine_jax.pipeline.from_config import pipeline
from ine_jax.pipeline.pipeline import Pipeline


def target(config: AttackConfig) -> Target:
    """Load the model of an attack, with its guard and negative."""
    sampler = config.sampler
    own = {"height": sampler.height, "width": sampler.width, "latents": sampler.latents}
    given = [f"sampler.{name} {value}" for name, value in own.items() if value]
    if given:
        raise InputError(given[0], "images of the model's own size and from seeds", "leave it out")
    pipe = pipeline(config.model, config.revision, sampler, config.unlearned)
    concept = guards.concept(config.negative)
    guard = guards.guidance(config.guidance, concept is not None, pipe)
    return Target(pipe, guard, concept, sampler.steps, sampler.noise)


def base(config: AttackConfig) -> Pipeline | None:
    """Load the model before unlearning, where the attack names one."""
    settings = config.settings
    if not isinstance(settings, WhiteBoxConfig) or not settings.base:
        return None
    return pipeline(settings.base, settings.base_revision, config.sampler)
