"""Tables and one self-contained page from stored runs. Needs no model, no JAX and no network."""

from ine_jax.report.building import build
from ine_jax.report.csvfile import read_csv, write_csv
from ine_jax.report.page import page
from ine_jax.report.sheets import sheets
from ine_jax.report.text import markdown, plain, sentences

__all__ = ["build", "markdown", "page", "plain", "read_csv", "sentences", "sheets", "write_csv"]
