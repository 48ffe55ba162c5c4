"""Tables and one self-contained page from stored runs. Needs no model, no JAX and no network."""

from ine_jax.report.page import build, page
from ine_jax.report.pictures import grid
from ine_jax.report.sheets import sheets
from ine_jax.report.tables import markdown, plain, sentences

__all__ = ["build", "grid", "markdown", "page", "plain", "sentences", "sheets"]
