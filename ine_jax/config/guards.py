"""Settings of the guards, and of what fills their slots."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from ine_jax.config.checks import check, check_min, check_template

Method = Literal["negative", "gated", "sld", "safree", "dng", "casg", "safe-denoiser"]
Inner = Literal["cfg", "negative", "gated", "sld", "dng"]
SldPreset = Literal["weak", "weak-200", "medium", "strong", "max"]
Reattention = Literal["off", "as-released", "low", "high", "all"]
NegativeKind = Literal["none", "explicit", "implicit", "blend"]
Preset = Literal["ine-balanced"]
Phrases = str | tuple[str, ...]
WRAPPING = {"safree": "cfg", "casg": "negative", "safe-denoiser": "negative"}  # method: what it wraps by default
_OWN = {"gated": "gate", "sld": "sld", "safree": "safree", "dng": "dng", "safe-denoiser": "safe_denoiser"}


@dataclass(frozen=True)
class SldConfig:
    """Safe latent diffusion (arXiv 2211.05105): a preset, and constants that differ from it."""

    preset: SldPreset = "medium"
    """Published constants; weak-200 is weak with the other published value of its scale."""
    safety_scale: float | None = None
    """s_S."""
    threshold: float | None = None
    """lambda."""
    momentum_scale: float | None = None
    """s_m."""
    momentum_beta: float | None = None
    """beta_m."""
    warmup: float | None = None
    """delta, in steps of 50; scaled to the steps of the run."""

    def __post_init__(self) -> None:
        check_min(self, 0, "safety_scale", "momentum_scale", "momentum_beta", "warmup")

    def overrides(self) -> dict[str, float]:
        """The constants that differ from the preset."""
        names = ("safety_scale", "threshold", "momentum_scale", "momentum_beta", "warmup")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class SafreeConfig:
    """SAFREE (arXiv 2410.12761): the concept is projected out of the prompt."""

    alpha: float = 0.01
    """A token is a trigger where hiding it moves the prompt away from the concept by a factor of 1 + alpha."""
    validate: bool = True
    """The self-validating filter chooses for each prompt how many steps the projected prompt is used."""
    up_t: float = 10.0
    """Most steps that the filter allows."""
    steepness: float = 2.5
    """k of the filter."""
    midpoint: float = 5.333
    """t0 of the filter."""
    steps_of_50: bool = False
    """Count the filter's steps in steps of 50, scaled to the run; off as in the release."""
    negative_in_cfg: bool = False
    """With inner cfg, the concept also takes the unconditional row, as in the release."""
    reattention: Reattention = "off"
    """Fourier filter on skip features: as-released filters nothing; low, high, all as the paper describes."""

    def __post_init__(self) -> None:
        check_min(self, 0, "alpha", "up_t")


@dataclass(frozen=True)
class GateConfig:
    """A negative that acts as far as the prompt heads for the concept, by the cosine of their directions."""

    low: float = 0.0
    """Cosine up to which the negative does nothing."""
    high: float = 0.5
    """Cosine from which it acts in full."""
    momentum: float = 0.0
    """How much of the earlier steps' evidence is kept."""
    window: int = 0
    """Side, in latent cells, of the square over which the cosine is taken; 0 is the whole image."""

    def __post_init__(self) -> None:
        check(self, "window", self.window == 0 or (self.window > 0 and self.window % 2 == 1), "0, or an odd number")
        check(self, "low", -1 <= self.low <= 1, "a cosine, -1 to 1")
        check(self, "high", self.low <= self.high <= 1, "a cosine, low to 1")
        check(self, "momentum", 0 <= self.momentum < 1, "0 to below 1")


@dataclass(frozen=True)
class DngConfig:
    """Dynamic negative guidance (arXiv 2410.14398)."""

    prior: float = 0.01
    """p0, the probability of the concept before the first step."""
    temperature: float = 0.2
    """tau of the posterior's update."""
    offset: float = 0.002
    """delta of the posterior's update."""
    strength: float = 12.0
    """lambda0."""

    def __post_init__(self) -> None:
        check(self, "prior", 0 < self.prior < 1, "between 0 and 1")
        check_min(self, 0, "temperature", "strength")


@dataclass(frozen=True)
class SafeDenoiserConfig:
    """Safe Denoiser (arXiv 2502.08011): predicted images are pushed away from images of the concept."""

    images: str = ""
    """Folder of images of the concept; empty means the bundled ones."""
    strength: float = 0.33
    """s."""
    sigma: float | None = None
    """Width of the kernel; empty means the published 3.15, scaled to the size of the latents."""
    from_timestep: float = 780.0
    """Only at timesteps from here on."""
    threshold: float = 0.0
    """Only where the kernels of all images add up to more than this."""

    def __post_init__(self) -> None:
        check_min(self, 0, "strength", "from_timestep", "threshold")
        check_min(self, 0, "sigma", exclusive=True)


@dataclass(frozen=True)
class GuidanceConfig:
    """How the prompt is followed and the concept avoided. Without a concept every method is plain CFG."""

    scale: float = 7.5
    """Guidance scale w; 1 is the conditional model alone."""
    negative_scale: float | None = None
    """Scale s of the negative; empty means w - 1, the usual negative prompt in two rows instead of three."""
    method: Method = "negative"
    """negative is eps_u + w (eps_c - eps_u) - s (eps_n - eps_u), gated scales s by an angle, others by their papers."""
    inner: Inner | None = None
    """What safree, casg and safe-denoiser wrap: cfg (no concept in its rows), negative, gated, sld or dng."""
    preset: Preset | None = None
    """ine-balanced: SLD as this project tuned it (measured in docs/guidance.md); scale alone is free beside it."""
    interval: tuple[float, ...] = (0.0, 1.0)
    """The guard acts in this part of the run, first and last as fractions; plain CFG elsewhere."""
    gate: GateConfig = field(default_factory=GateConfig)
    sld: SldConfig = field(default_factory=SldConfig)
    safree: SafreeConfig = field(default_factory=SafreeConfig)
    dng: DngConfig = field(default_factory=DngConfig)
    safe_denoiser: SafeDenoiserConfig = field(default_factory=SafeDenoiserConfig)

    def __post_init__(self) -> None:
        check_min(self, 0.0, "scale", "negative_scale")
        sound = len(self.interval) == 2 and 0 <= self.interval[0] < self.interval[1] <= 1
        check(self, "interval", sound, "two fractions of the run, 0 <= first < last <= 1")
        scaled = self.negative_scale is None or self.acting in ("negative", "gated")
        check(self, "negative_scale", scaled, "given where negative or gated is the method, or inner")
        check(self, "inner", self.inner is None or self.method in WRAPPING, f"given with {', '.join(WRAPPING)}")
        given = (self.method, self.negative_scale, self.interval, self.sld)
        free = given == ("negative", None, (0.0, 1.0), SldConfig())
        check(self, "preset", self.preset is None or free, "given without method, negative_scale, interval and sld")
        chooses = self.method == "casg"
        check(
            self,
            "inner",
            not chooses or self.inner in (None, "negative", "gated", "sld"),
            "negative, gated or sld under casg",
        )

    @property
    def acting(self) -> str:
        """The method that combines the predictions: what a wrapping one wraps, or else the method itself."""
        return self.inner or WRAPPING.get(self.method, self.method)

    def resolved(self) -> "GuidanceConfig":
        """The same with the preset's numbers in place of its name."""
        if self.preset is None:
            return self
        return dataclasses.replace(self, preset=None, method="sld", sld=BALANCED)

    def settings(self) -> dict[str, Any]:
        """What decides the guard, as JSON values: a preset's numbers, and nothing of methods that are not used."""
        used = self.resolved()
        fields = dataclasses.asdict(used)
        del fields["preset"]
        for method, name in _OWN.items():
            if method not in (used.method, used.inner):
                del fields[name]
        return {**fields, "interval": list(used.interval)}


# ine-balanced: chosen on the lists tune-attack and tune-benign of the bundled family (docs/guidance.md)
BALANCED = SldConfig("max", momentum_scale=0.7)


@dataclass(frozen=True)
class NegativeConfig:
    """What is to be avoided: words, learned embeddings, or a blend; nothing where all is empty."""

    name: str = ""
    """Name in tables and folders; empty means its kind."""
    words: Phrases = ""
    """Phrases."""
    embedding: Phrases = ""
    """Embedding files, or names of bundled ones."""
    template: str = "{}"
    """Text around a learned token, with one {}: "a photo of a {}"."""
    blend: float | None = None
    """Weight of the embeddings where words are given too: 0 is words alone, 1 embeddings alone."""

    def __post_init__(self) -> None:
        words, files = phrases(self.words), phrases(self.embedding)
        check(self, "words", all(w.strip() for w in words), "phrases that are not empty")
        check(self, "embedding", all(f.strip() for f in files), "files or names that are not empty")
        held = (self.blend is not None) == bool(words and files)
        check(self, "blend", held, "given where both words and an embedding are, and only there")
        check(self, "blend", self.blend is None or 0 <= self.blend <= 1, "0 to 1")
        check_template(self)
        check(self, "template", self.template == "{}" or bool(files), "given together with an embedding")

    @property
    def kind(self) -> NegativeKind:
        """none, explicit (words), implicit (embeddings) or blend."""
        if phrases(self.words):
            return "blend" if phrases(self.embedding) else "explicit"
        return "implicit" if phrases(self.embedding) else "none"


@dataclass(frozen=True)
class GuardConfig:
    """One guard of an evaluation."""

    name: str = "negative"
    """Name in tables and folders."""
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)

    def __post_init__(self) -> None:
        check(self, "name", bool(self.name.strip()), "a name that is not empty")


def phrases(given: Phrases) -> tuple[str, ...]:
    """One text or several as a tuple; the empty text is none."""
    return ((given,) if given else ()) if isinstance(given, str) else given
