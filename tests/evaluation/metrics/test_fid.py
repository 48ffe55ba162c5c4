"""Frechet distance against closed forms and SciPy; Inception against torch-fidelity's on the same random weights."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ine_jax.errors import CorruptRunError, InputError
from ine_jax.evaluation.detectors.base import Scored, Unscored
from ine_jax.evaluation.metrics import fid, inception
from tests.support.library_part import library_part


def features(n: int, d: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return (draw.normal(size=(n, d)) @ draw.normal(size=(d, d)) + draw.normal(size=d)).astype(np.float32)


def told(x: np.ndarray, y: np.ndarray) -> float:
    """The distance with SciPy's root of a matrix that is not symmetric."""
    linalg = pytest.importorskip("scipy.linalg")
    a, b = (np.cov(z.astype(np.float64), rowvar=False) for z in (x, y))
    shift = x.astype(np.float64).mean(0) - y.astype(np.float64).mean(0)
    return float(shift @ shift + np.trace(a + b) - 2 * np.trace(linalg.sqrtm(a @ b)).real)


def test_distance_against_scipy() -> None:
    x, y = features(300, 24, 0), features(200, 24, 1)
    assert fid.frechet(fid.Moments.of(x), fid.Moments.of(y)) == pytest.approx(told(x, y), rel=1e-9)


def test_distance_of_known_normals() -> None:
    """Diagonal covariances: |m|^2 + sum (sqrt a - sqrt b)^2."""
    a = fid.Moments(11, np.zeros(3), np.sqrt(10 * np.diag([1.0, 4.0, 9.0])))
    b = fid.Moments(21, np.array([1.0, 2.0, 2.0]), np.sqrt(20 * np.diag([4.0, 4.0, 0.0])))
    assert fid.frechet(a, b) == pytest.approx(9 + 1 + 0 + 9)
    assert fid.frechet(a, a) == pytest.approx(0, abs=1e-12)


def test_fewer_vectors_than_dimensions() -> None:
    x, y = features(6, 20, 2), features(9, 20, 3)
    a, b = fid.Moments.of(x), fid.Moments.of(y)
    assert fid.frechet(a, b) == pytest.approx(fid.frechet(b, a), rel=1e-6)
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    trace = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b.covariance @ root), 0)).sum()
    whole = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance) + np.trace(b.covariance)
    assert fid.frechet(a, b) == pytest.approx(whole - 2 * trace, rel=1e-5)
    with pytest.raises(ValueError, match="no covariance"):
        fid.frechet(a, fid.Moments.of(x[:1]))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 99))
def test_moments_of_parts_are_those_of_the_whole(sizes: list[int], seed: int) -> None:
    rows = features(sum(sizes), 5, seed) + np.float32(100)
    parts = [fid.Moments.of(part) for part in np.split(rows, np.cumsum(sizes)[:-1])]
    added = parts[0]
    for part in parts[1:]:
        added = added + part
    whole = fid.Moments.of(rows)
    assert added.n == whole.n == sum(sizes)
    np.testing.assert_allclose(added.mean, whole.mean, rtol=1e-12)
    assert len(added.factor) <= 15  # twice the dimensions, and what one addition may add
    scatters = [each.factor.T @ each.factor for each in (added, added.shortened(), whole)]
    for scatter in scatters[:2]:
        np.testing.assert_allclose(scatter, scatters[2], atol=1e-9 * max(1.0, np.abs(scatters[2]).max()))


def test_moments_on_disk(tmp_path: Path) -> None:
    whole = fid.Moments.of(features(30, 5, 1))
    (tmp_path / "real.safetensors").write_bytes(whole.save({"folder": "x"}))
    again, notes = fid.Moments.load(tmp_path / "real.safetensors")
    assert (again.n, notes) == (30, {"folder": "x"})
    np.testing.assert_allclose(again.covariance, whole.covariance, rtol=1e-12)
    assert fid.frechet(again, whole) == pytest.approx(0, abs=1e-9)
    data = (tmp_path / "real.safetensors").read_bytes()
    for at in (12, 100, len(data) // 2, len(data) - 1):
        (tmp_path / "real.safetensors").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(CorruptRunError):
            fid.Moments.load(tmp_path / "real.safetensors")


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Random numbers in the published shapes, of a size that neither dies nor explodes through ninety layers."""
    draw, found = np.random.default_rng(seed), {}
    for name, shape in inception.shapes().items():
        if len(shape) == 4:
            found[name] = draw.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        elif name.endswith("running_mean") or name.endswith("bias"):
            found[name] = draw.normal(0, 0.1, shape).astype(np.float32)
        else:
            found[name] = draw.uniform(0.8, 1.2, shape).astype(np.float32)
    return found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    safetensors.numpy.save_file({**weights(), "fc.bias": np.zeros(1008, np.float32)}, path)
    return path


def test_resizing_keeps_to_the_range_and_is_not_rounded() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    found = inception.resized(image)
    assert found.shape == (299, 299, 3) and found.dtype == np.float32
    assert found.min() == 0 and found.max() == 255 and np.abs(found - np.rint(found)).max() > 0.4
    red = Image.fromarray(image[..., 0].astype(np.float32)).resize((299, 299), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(found[..., 0], np.asarray(red).clip(0, 255))


def test_the_tables_describe_the_published_network() -> None:
    known = inception.shapes()
    assert len(inception.convolutions()) == 94 and len(known) == 5 * 94
    # Keras counts 21,768,352 trainable parameters of InceptionV3 without its top: kernels and shifts, no scales
    trained = (int(np.prod(s)) for name, s in known.items() if name.endswith(("conv.weight", "bn.bias")))
    assert sum(trained) == 21_768_352
    assert known["Mixed_7c.branch3x3dbl_3b.conv.weight"] == (384, 384, 3, 1)
    assert known["Mixed_6b.branch7x7_2.conv.weight"] == (128, 128, 1, 7)
    assert known["Mixed_7b.branch1x1.conv.weight"][1] == 1280 and known["Mixed_7c.branch_pool.conv.weight"][1] == 2048


@pytest.mark.thorough
def test_features_of_a_set(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "BATCH", 2)
    monkeypatch.setattr(inception, "SIDE", 75)
    metric = inception.load(file)
    images = np.random.default_rng(1).integers(0, 256, (4, 20, 24, 3), np.uint8)
    images[1] = 9
    verdicts: list[Any] = metric.measure(images, [""] * 4)
    assert isinstance(verdicts[1], Unscored) and verdicts[1].reason == "degenerate: constant"
    scored = [v for v in verdicts if isinstance(v, Scored)]
    vectors = np.stack([np.asarray(v.vector) for v in scored])
    assert vectors.shape == (3, 2048) and np.isfinite(vectors).all() and vectors.std() > 1e-3
    np.testing.assert_allclose([v.labels["norm"] for v in scored], np.linalg.norm(vectors, axis=1), rtol=1e-5)
    assert metric.measure(images[3:], [""]) == [scored[2]]
    about = metric.about()
    assert (metric.id, about["kind"], "bicubic" in about["resize"]) == ("fid", "metric", True)
    assert metric.version == f"inception-{about['weights_sha256'][:8]}"


def test_weights_of_another_network(tmp_path: Path) -> None:
    state = {k: v for k, v in weights().items() if not k.startswith("Mixed_7c")}
    safetensors.numpy.save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(InputError, match=r"\(missing\) and 42 more"):
        inception.load(tmp_path / "part.safetensors")


@pytest.mark.oracle
def test_against_torch_fidelity(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    state = {name: torch.tensor(values) for name, values in weights().items()}
    state |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    image = np.random.default_rng(5).integers(0, 256, (1, 299, 299, 3), np.uint8)
    with library_part("torch_fidelity.feature_extractor_inceptionv3") as library:
        counts = {f"{name}.bn.num_batches_tracked": torch.tensor(0) for name in inception.convolutions()}
        path = tmp_path / "pt_inception.pth"
        torch.save({**state, **counts}, path)
        net = library.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(path))
        want = net(torch.tensor(image.transpose(0, 3, 1, 2)))[0].numpy()
    metric = inception.load(path)
    found = np.asarray(inception.Inception().apply({"params": metric.params}, jnp.asarray(image, jnp.float32)))
    assert want.std() > 1e-2
    np.testing.assert_allclose(found, want, atol=1e-4 * np.abs(want).max())
    np.testing.assert_allclose(inception.resized(image[0]), image[0])
