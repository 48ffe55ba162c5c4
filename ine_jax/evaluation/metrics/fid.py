"""Frechet distance of two sets of feature vectors (Heusel et al. 2017, arXiv 1706.08500), in float64 NumPy.

    d^2 = |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2))

with means m and covariances S (divisor n - 1). FID is this distance of Inception features; its estimate is biased
upwards where n is small (Chong & Forsyth 2020, arXiv 1911.07023), so values compare only at the same n.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors

from ine_jax.evaluation.detectors.base import Scored
from ine_jax.storage.provenance import value_hash
from ine_jax.storage.safetensors_writer import safetensors_bytes
from ine_jax.storage.sealed import corrupt
from ine_jax.storage.untrusted import open_safetensors

NORM = "norm"
REAL = "real.safetensors"  # moments of real images, beside the vectors of a run
NOTE = "FID is biased upwards at small n: compare values of equal n only"


def verdict(vector: np.ndarray) -> Scored:
    """The verdict on one image: its feature vector [d], and the vector's length as the one number."""
    return Scored({NORM: round(float(np.linalg.norm(vector)), 6)}, vector=np.asarray(vector, np.float32))


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean [d] and factor [r, d] of a set of vectors, float64.

    factor^T factor is the scatter, the sum of outer products about the mean. It has a row per vector and per merger of
    two sets, and is shortened to d rows (the R of its QR decomposition) once it has twice as many: memory stays flat,
    few vectors stay cheap, and no number is squared before it must be.
    """

    n: int
    mean: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Moments:
        """The moments of rows [n, d]."""
        rows = np.asarray(features, np.float64)
        mean = rows.mean(0)
        return cls(len(rows), mean, rows - mean)

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets together (Chan, Golub & LeVeque 1983, The American Statistician 37, 242-247)."""
        n = self.n + other.n
        shift = other.mean - self.mean
        between = np.sqrt(self.n * other.n / n) * shift
        factor = np.concatenate([self.factor, other.factor, between[None]])
        whole = Moments(n, self.mean + shift * (other.n / n), factor)
        return whole.shortened() if len(factor) > 2 * len(shift) else whole

    def shortened(self) -> Moments:
        """The same with at most d rows."""
        long = len(self.factor) > len(self.mean)
        return dataclasses.replace(self, factor=np.asarray(np.linalg.qr(self.factor, "r"))) if long else self

    @property
    def covariance(self) -> np.ndarray:
        """Sample covariance [d, d]; ValueError for fewer than two vectors."""
        if self.n < 2:
            raise ValueError(f"{self.n} vectors have no covariance")
        covariance: np.ndarray = self.factor.T @ self.factor / (self.n - 1)
        return covariance

    def save(self, notes: Mapping[str, str]) -> bytes:
        """The bytes of a safetensors file of these moments, with `notes` in its header."""
        tensors = {"mean": self.mean, "factor": np.ascontiguousarray(self.shortened().factor)}
        header = {**notes, "n": str(self.n)}
        return safetensors_bytes(tensors, {**header, "content": _content(header, tensors)})

    @classmethod
    def load(cls, path: Path) -> tuple[Moments, dict[str, str]]:
        """Moments and notes of a file of :meth:`save`. CorruptRunError for any other, or where one byte is another."""
        try:
            with open_safetensors(path, corrupt) as file:
                notes = dict(file.metadata())
                tensors = {name: file.get_tensor(name) for name in ("mean", "factor")}
            notes.pop("format", "")
            sound = notes.pop("content") == _content(notes, tensors)
            moments = cls(int(notes.pop("n")), **tensors)
        except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise corrupt(path, error) from error
        if not sound:
            raise corrupt(path, "its sha256 is not the recorded one")
        return moments, notes


def _content(notes: Mapping[str, str], tensors: Mapping[str, np.ndarray]) -> str:
    digests = {name: hashlib.sha256(tensor.tobytes()).hexdigest() for name, tensor in tensors.items()}
    return value_hash({"notes": dict(notes), **digests})


def frechet(a: Moments, b: Moments) -> float:
    """Squared Frechet distance of the normal distributions with these moments; ValueError for fewer than two vectors.

    With S1 = F^T F and S2 = G^T G, the eigenvalues of S1 S2 are the squared singular values of F G^T, so that
    tr((S1 S2)^(1/2)) is their sum: no root of a matrix, and nothing added to the diagonal where S1 S2 is singular.
    """
    if min(a.n, b.n) < 2:
        raise ValueError(f"{min(a.n, b.n)} vectors have no covariance")
    f, g = (x.shortened().factor / np.sqrt(x.n - 1) for x in (a, b))
    roots = np.linalg.svd(f @ g.T, compute_uv=False).sum()
    return float(np.sum((a.mean - b.mean) ** 2) + np.sum(f**2) + np.sum(g**2) - 2 * roots)
