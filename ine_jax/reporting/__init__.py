"""Tables and one self-contained page from stored runs. Needs no model, no JAX and no network."""

from ine_jax.reporting.building import build
from ine_jax.reporting.csvfile import read_csv, write_csv
from ine_jax.reporting.page import page
from ine_jax.reporting.sheets import sheets
from ine_jax.reporting.text import markdown, plain, sentences

__all__ = ["build", "markdown", "page", "plain", "read_csv", "sentences", "sheets", "write_csv"]
