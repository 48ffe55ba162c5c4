"""The settings of `ine demo`, read from the world.json of the bundled family."""

import dataclasses
from dataclasses import dataclass
from typing import TypedDict, TypeVar, cast

from ine_jax import assets
from ine_jax.config import DemoConfig, GuidanceConfig, InversionConfig, SamplerConfig, yaml_file
from ine_jax.config.methods import Scheduler
from ine_jax.errors import InputError
from ine_jax.storage.weight_files import read_json

T = TypeVar("T")


class WorldSettings(TypedDict, total=False):
    """The key `settings` of world.json, chosen on prompts and seeds that the demo does not use."""

    guidance_scale: float
    negative_scale: float
    interval: list[float]
    scheduler: Scheduler
    steps: int
    inversion: dict[str, object]
    explicit_negative: list[str]
    implicit_template: str
    sweep: list[float]


class World(TypedDict, total=False):
    """The keys of world.json that the demo reads; `measured` describes the detector."""

    settings: WorldSettings
    measured: dict[str, object]


@dataclass(frozen=True)
class Settings:
    """What is fixed before any image is generated; `sweep` lists further negative scales of the full demo."""

    guidance: GuidanceConfig
    sampler: SamplerConfig
    inversion: InversionConfig
    words: tuple[str, ...]
    template: str
    sweep: tuple[float, ...] = ()


def read_world() -> World:
    """Read the bundled family's world.json."""
    return cast("World", read_json(assets.folder() / "world.json"))


def read_settings(world: World, config: DemoConfig) -> Settings:
    """Combine the family's settings with the fields of `config` that differ from their defaults."""
    usual = DemoConfig()
    try:
        own = world["settings"]
        first, last = own.get("interval", (0.0, 1.0))
        guidance = GuidanceConfig(own["guidance_scale"], own["negative_scale"], interval=(first, last))
        sampler = dataclasses.replace(usual.sampler, scheduler=own["scheduler"], steps=own["steps"])
        named = {"concept": usual.inversion.concept, **own["inversion"]}
        inversion = yaml_file.build(InversionConfig, named, "world.json")
        words, template = tuple(own["explicit_negative"]), own["implicit_template"]
        sweep = tuple(float(scale) for scale in own.get("sweep", ()))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"settings of world.json: {error}", "the family's settings", "install it again") from error
    return Settings(
        _changed(guidance, config.guidance, usual.guidance),
        _changed(sampler, config.sampler, usual.sampler),
        _changed(inversion, config.inversion, usual.inversion),
        words,
        template,
        sweep,
    )


def _changed(own: T, given: T, usual: T) -> T:
    """The record `own` with the fields in which `given` differs from `usual`."""
    names = [field.name for field in dataclasses.fields(own)]  # type: ignore[arg-type]
    changes = {name: getattr(given, name) for name in names if getattr(given, name) != getattr(usual, name)}
    return dataclasses.replace(own, **changes)  # type: ignore[type-var]
