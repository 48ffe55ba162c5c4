"""How tables, figures and filters name the parts of a cell: guard, scales, negative."""

from ine_jax.evaluation.records import CellEntry, PairedTest, PresetRecord
from ine_jax.storage.records import CellSpec, NegativeKind

NEGATIVES: dict[NegativeKind, str] = {
    "none": "no negative",
    "explicit": "explicit words",
    "blend": "words + implicit",
    "implicit": "implicit",
}
KINDS = tuple(NEGATIVES)
DASH = "-"


def negative_text(cell: CellEntry | CellSpec, seeds: bool = True) -> str:
    """What fills the negative: `explicit words`, `implicit (own, seed 0)`, `implicit (from tiny)`."""
    source, seed = cell.get("embedding_from", ""), cell.get("embedding_seed")
    return _negative(cell["negative"], cell["negative_name"], source, cell["model"], seed if seeds else None)


def sides_text(test: PairedTest) -> tuple[str, str]:
    """The two negatives of a paired test. The stored origin is that of `b`."""
    source, seed = test.get("embedding_from", ""), test.get("embedding_seed")
    a = _negative(test["a"], test["a_name"], "", test["model"], None)
    return a, _negative(test["b"], test["b_name"], source, test["model"], seed)


def _negative(kind: NegativeKind, name: str, source: str, model: str, seed: int | None) -> str:
    origin = "own" if source == model else f"from {source}"
    details = [name, origin if source else "", f"seed {seed}" if source and seed is not None else ""]
    text = ", ".join(detail for detail in details if detail)
    return f"{NEGATIVES[kind]} ({text})" if text else NEGATIVES[kind]


def negative_scale(kind: NegativeKind, scale: float | None) -> str:
    """The negative scale; `default`: it follows from the guidance scale or the guard; a dash without a negative."""
    if kind == "none":
        return DASH
    return "default" if scale is None else f"{scale:g}"


def scales_text(scale: float, own: str) -> str:
    """`guidance scale 3, negative scale 4`; `own` is the text of `negative_scale`."""
    return f"guidance scale {scale:g}" + ("" if own == DASH else f", negative scale {own}")


def cell_scales(cell: CellEntry) -> str:
    """`scales_text` of a cell."""
    return scales_text(cell["scale"], negative_scale(cell["negative"], cell["negative_scale"]))


def detector_text(name: str, preset: PresetRecord) -> str:
    """Where rates come from: `nudenet@3.4-0a1b2c3d, preset duo, threshold 0.2`."""
    return f"{name}, preset {preset['name']}, threshold {preset['threshold']:g}"


def p_text(p: float) -> str:
    """`p = 0.012`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
