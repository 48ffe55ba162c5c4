"""Settings of the guards, and of the negatives that they use."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from ine_jax.config.checks import check, check_min, check_template, is_file_name

Method = Literal["negative", "gated", "sld", "safree", "dng", "casg", "safe-denoiser"]
Inner = Literal["cfg", "negative", "gated", "sld", "dng"]
SldPreset = Literal["weak", "weak-200", "medium", "strong", "max"]
WarmupUnit = Literal["steps", "fraction"]
Overlong = Literal["as-released", "end-token"]
Reattention = Literal["off", "as-released", "low", "high", "all"]
NegativeKind = Literal["none", "explicit", "implicit", "blend"]
Preset = Literal["ine-balanced"]
Phrases = str | tuple[str, ...]
WRAPPING = {"safree": "cfg", "casg": "negative", "safe-denoiser": "negative"}  # method: what it wraps by default
_OWN = {"gated": "gate", "sld": "sld", "safree": "safree", "dng": "dng", "safe-denoiser": "safe_denoiser"}


@dataclass(frozen=True)
class SldConfig:
    """Safe latent diffusion (SLD, arXiv 2211.05105): a preset, and constants that replace its own."""

    preset: SldPreset = "medium"
    """Published constants; weak-200 is weak with the other published value of its safety scale."""
    safety_scale: float | None = None
    """Safety guidance scale, s_S in the paper; empty here and below: the preset's value."""
    threshold: float | None = None
    """Threshold lambda: larger values guide more of the image."""
    momentum_scale: float | None = None
    """Momentum scale, s_m."""
    momentum_beta: float | None = None
    """Momentum decay, beta_m."""
    warmup: float | None = None
    """Warm-up delta: the first steps, in which the negative does not act."""
    warmup_unit: WarmupUnit = "steps"
    """steps counts the warm-up as the released code does; fraction scales it from a 50-step run to this one."""

    def __post_init__(self) -> None:
        check_min(self, 0, "safety_scale", "momentum_scale", "momentum_beta", "warmup")

    def overrides(self) -> dict[str, float]:
        """The constants that replace those of the preset."""
        names = ("safety_scale", "threshold", "momentum_scale", "momentum_beta", "warmup")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class SafreeConfig:
    """SAFREE (arXiv 2410.12761): projects the concept out of the prompt embedding."""

    alpha: float = 0.01
    """A token is a trigger if masking it moves the prompt away from the concept by a factor of 1 + alpha."""
    validate: bool = True
    """Self-validating filter: choose for each prompt in how many steps the projected prompt is used."""
    up_t: float = 10.0
    """Largest number of steps that the filter chooses."""
    steepness: float = 2.5
    """Steepness k of the filter."""
    midpoint: float = 5.333
    """Midpoint t0 of the filter."""
    steps_of_50: bool = False
    """Count the filter's steps as in a 50-step run, scaled to this run; the released code does not."""
    negative_in_cfg: bool = False
    """With inner cfg, the concept also replaces the unconditional prompt, as in the released code."""
    reattention: Reattention = "off"
    """Fourier filter on skip features: low, high or all as in the paper; as-released has no effect."""
    overlong: Overlong = "as-released"
    """Prompts longer than the encoder reads: as-released finds no triggers in them, end-token treats them as others."""

    def __post_init__(self) -> None:
        check_min(self, 0, "alpha", "up_t")


@dataclass(frozen=True)
class GateConfig:
    """A negative whose strength follows the cosine between the directions of prompt and concept."""

    low: float = 0.0
    """Up to this cosine the negative has no effect."""
    high: float = 0.5
    """From this cosine on it has its full effect."""
    momentum: float = 0.0
    """Weight of the earlier steps in a running mean of the cosine."""
    window: int = 0
    """Side of the square window, in latent cells, over which the cosine is computed; 0: the whole image."""

    def __post_init__(self) -> None:
        check(self, "window", self.window == 0 or (self.window > 0 and self.window % 2 == 1), "0, or an odd number")
        check(self, "low", -1 <= self.low <= 1, "a cosine, -1 to 1")
        check(self, "high", self.low <= self.high <= 1, "a cosine, low to 1")
        check(self, "momentum", 0 <= self.momentum < 1, "0 to below 1")


@dataclass(frozen=True)
class DngConfig:
    """Dynamic negative guidance (arXiv 2410.14398)."""

    prior: float = 0.01
    """Prior probability p0 of the concept."""
    temperature: float = 0.2
    """Temperature tau of the posterior update."""
    offset: float = 0.002
    """Offset delta of the posterior update."""
    strength: float = 12.0
    """Guidance strength lambda0."""

    def __post_init__(self) -> None:
        check(self, "prior", 0 < self.prior < 1, "between 0 and 1")
        check_min(self, 0, "temperature", "strength")


@dataclass(frozen=True)
class SafeDenoiserConfig:
    """Safe Denoiser (arXiv 2502.08011): pushes predicted images away from images of the concept."""

    images: str = ""
    """Folder of images of the concept; empty: the bundled images."""
    strength: float = 0.33
    """Strength of the push, s in the paper."""
    sigma: float | None = None
    """Width of the kernel; empty: the published 3.15, scaled to the size of the latents."""
    from_timestep: float = 780.0
    """Act only at timesteps of at least this."""
    threshold: float = 0.0
    """Act only where the sum of the kernels of all images exceeds this."""

    def __post_init__(self) -> None:
        check_min(self, 0, "strength", "from_timestep", "threshold")
        check_min(self, 0, "sigma", exclusive=True)


@dataclass(frozen=True)
class GuidanceConfig:
    """How strongly the prompt is followed, and how the concept is avoided. Without a negative every method is CFG."""

    scale: float = 7.5
    """Guidance scale; 1 is the conditional prediction alone."""
    negative_scale: float | None = None
    """Negative scale; empty: guidance scale - 1, the usual negative prompt, with two network rows instead of three."""
    method: Method = "negative"
    """How the negative acts: negative subtracts it, gated scales it by an angle, the others as in their papers."""
    inner: Inner | None = None
    """Method inside safree, casg and safe-denoiser: cfg (without the concept), negative, gated, sld or dng."""
    preset: Preset | None = None
    """ine-balanced: SLD with this project's constants (docs/guidance.md); only scale may be given with it."""
    interval: tuple[float, ...] = (0.0, 1.0)
    """Part of the sampling run in which the guard acts, as two fractions; plain CFG elsewhere."""
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
        check(self, "negative_scale", scaled, "empty unless method or inner is negative or gated")
        wraps = self.inner is None or self.method in WRAPPING
        check(self, "inner", wraps, f"empty unless method is one of {', '.join(WRAPPING)}")
        given = (self.method, self.negative_scale, self.interval, self.sld)
        free = self.preset is None or given == ("negative", None, (0.0, 1.0), SldConfig())
        check(self, "preset", free, "empty where method, negative_scale, interval or sld is given")
        fits = self.method != "casg" or self.inner in (None, "negative", "gated", "sld")
        check(self, "inner", fits, "negative, gated or sld under casg")

    @property
    def acting(self) -> str:
        """The method that combines the predictions: the inner one of a wrapping method, else the method itself."""
        return self.inner or WRAPPING.get(self.method, self.method)

    def resolved(self) -> "GuidanceConfig":
        """The same guidance with the constants of the preset in place of its name."""
        if self.preset is None:
            return self
        return dataclasses.replace(self, preset=None, method="sld", sld=BALANCED)

    def settings(self) -> dict[str, object]:
        """The identity of the guard as JSON values: the constants of a preset, and only of methods that are used."""
        used = self.resolved()
        fields = dataclasses.asdict(used)
        del fields["preset"]
        for method, name in _OWN.items():
            if method not in (used.method, used.inner):
                del fields[name]
        return {**fields, "interval": list(used.interval)}


# ine-balanced: chosen on the prompt sets tune-attack and tune-benign of the bundled family (docs/guidance.md)
BALANCED = SldConfig("max", momentum_scale=0.7)


@dataclass(frozen=True)
class NegativeConfig:
    """What a guard avoids: words, learned embeddings, or a blend; nothing where all fields are empty."""

    name: str = ""
    """Name in tables and folders; empty: its kind."""
    words: Phrases = ""
    """The concept in words: one phrase or several."""
    embedding: Phrases = ""
    """Embedding files, names of bundled embeddings, or `own`: in an evaluation, the one that each model names."""
    template: str = "{}"
    """Text around a learned token, with one {}, such as "a photo of a {}"."""
    blend: float | None = None
    """Weight of the embeddings where words are given too: 0 is only words, 1 only embeddings."""

    def __post_init__(self) -> None:
        words, files = phrases(self.words), phrases(self.embedding)
        check(self, "words", all(w.strip() for w in words), "phrases that are not empty")
        check(self, "words", not any(map(is_file_name, words)), "phrases; a file belongs to embedding")
        check(self, "embedding", all(f.strip() for f in files), "files or names that are not empty")
        held = (self.blend is not None) == bool(words and files)
        check(self, "blend", held, "a weight where both words and an embedding are given, else empty")
        check(self, "blend", self.blend is None or 0 <= self.blend <= 1, "0 to 1")
        check_template(self)
        check(self, "template", self.template == "{}" or bool(files), "{} unless an embedding is given")

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
    """One text or several, as a tuple; the empty text gives an empty tuple."""
    return ((given,) if given else ()) if isinstance(given, str) else given
