"""Frechet distance of two sets of feature vectors (Heusel et al. 2017, arXiv 1706.08500), in float64 NumPy.

    d^2 = |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))

with means m and covariances S (divisor n - 1). FID is this distance of Inception features; its estimate is biased
upwards where n is small (Chong & Forsyth 2020, arXiv 1911.07023), so values compare only at the same n. Vectors are
stored with the scores and read one block at a time; the distance is computed when a report is made.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from ine_jax.detectors.base import Scored
from ine_jax.storage import corrupt

NORM = "norm"
NOTE = "FID is biased upwards at small n: compare values of equal n only"


def verdict(vector: np.ndarray) -> Scored:
    """What is stored for one image: its vector [d] without loss, and its length as the one number."""
    return Scored({NORM: round(float(np.linalg.norm(vector)), 6)}, ({"features": encode(vector)},))


def encode(vector: np.ndarray) -> str:
    """A float32 vector as text, without loss (little endian, base64)."""
    return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()


def decode(text: str) -> np.ndarray:
    """The float32 vector of :func:`encode`. ValueError for anything else."""
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4")


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean [d] and scatter [d, d] (sum of outer products about the mean) of a set of vectors, float64."""

    n: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Moments:
        """The moments of rows [n, d]."""
        rows = np.asarray(features, np.float64)
        mean = rows.mean(0)
        return cls(len(rows), mean, (rows - mean).T @ (rows - mean))

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets together (Chan, Golub & LeVeque 1983, The American Statistician 37, 242-247)."""
        n = self.n + other.n
        shift = other.mean - self.mean
        between = np.outer(shift, shift) * (self.n * other.n / n)
        return Moments(n, self.mean + shift * (other.n / n), self.scatter + other.scatter + between)

    def save(self, notes: Mapping[str, str]) -> bytes:
        """The bytes of a safetensors file of these moments, with `notes` in its header."""
        tensors = {"mean": self.mean, "scatter": self.scatter}
        return safetensors.numpy.save(tensors, {**notes, "n": str(self.n)})

    @classmethod
    def load(cls, path: Path) -> tuple[Moments, dict[str, str]]:
        """Moments and notes of a file of :meth:`save`. CorruptRunError for any other."""
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                notes = dict(file.metadata())
                moments = cls(int(notes.pop("n")), file.get_tensor("mean"), file.get_tensor("scatter"))
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise corrupt(path, error) from error
        return moments, notes

    @property
    def covariance(self) -> np.ndarray:
        """Sample covariance [d, d]; ValueError for fewer than two vectors."""
        if self.n < 2:
            raise ValueError(f"{self.n} vectors have no covariance")
        return self.scatter / (self.n - 1)

    @cached_property
    def root(self) -> np.ndarray:
        """The positive root of the covariance [d, d]."""
        values, vectors = np.linalg.eigh(self.covariance)
        return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def frechet(a: Moments, b: Moments) -> float:
    """Squared Frechet distance of the normal distributions with these moments; ValueError for fewer than two vectors.

    tr((S1 S2)^(1/2)) is the sum of the roots of the eigenvalues of R S2 R with R the root of S1, which is symmetric:
    no complex numbers and nothing added to the diagonal where covariances are singular.
    """
    inner = a.root @ b.covariance @ a.root
    roots = np.sqrt(np.maximum(np.linalg.eigvalsh((inner + inner.T) / 2), 0)).sum()
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    return float(np.sum((a.mean - b.mean) ** 2) + traces - 2 * roots)
