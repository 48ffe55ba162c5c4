"""LPIPS against a float64 telling in NumPy and against torchmetrics on one set of weights; resizing against cv2."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from ine_jax.errors import InputError
from ine_jax.evaluation.detectors.base import Scored, Unscored
from ine_jax.evaluation.metrics import lpips
from ine_jax.evaluation.metrics.resize import linear_uint8
from tests.support.library_part import library_part


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Random numbers in the published shapes, under the names of the published files."""
    draw = np.random.default_rng(seed)
    found = {}
    for name, shape in lpips.shapes().items():
        fan = max(1, int(np.prod(shape[1:])))
        values = draw.normal(0, (2 / fan) ** 0.5, shape) if name.startswith("features") else draw.random(shape)
        stored = name if name.startswith("features") else name.replace(".weight", ".model.1.weight")
        found[stored] = values.astype(np.float32)
    return found


def images(count: int, side: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two files that a user downloads, as safetensors."""
    path, state = tmp_path_factory.mktemp("lpips"), weights()
    alexnet = {k: v for k, v in state.items() if k.startswith("features")}
    safetensors.numpy.save_file(
        {**alexnet, "classifier.6.weight": np.zeros((2, 2), np.float32)}, path / "alexnet.safetensors"
    )
    safetensors.numpy.save_file({k: v for k, v in state.items() if k.startswith("lin")}, path / "alex.safetensors")
    return path


def convolved(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, stride: int, pad: int) -> np.ndarray:
    """x [C, H, W], kernel [O, C, k, k]; float64."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], (1, 2))[:, ::stride, ::stride]
    return np.einsum("chwij,ocij->ohw", windows, kernel, optimize=True) + bias[:, None, None]


def told(a: np.ndarray, b: np.ndarray, state: dict[str, np.ndarray]) -> float:
    """LPIPS of two uint8 images [H, W, 3] step by step in float64."""
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    pair = [((x.astype(np.float64) / 127.5 - 1 - shift) / scale).transpose(2, 0, 1) for x in (a, b)]
    total = 0.0
    for k, (place, _, _, stride, pad) in enumerate(lpips.LAYERS):
        units = []
        for i, x in enumerate(pair):
            if k in lpips.POOLED:
                x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].max((3, 4))
            kernel, bias = (state[f"features.{place}.{part}"].astype(np.float64) for part in ("weight", "bias"))
            pair[i] = np.maximum(convolved(x, kernel, bias, stride, pad), 0)
            units.append(pair[i] / (np.sqrt((pair[i] ** 2).sum(0)) + 1e-10))
        head = state[f"lin{k}.model.1.weight"].reshape(-1, 1, 1).astype(np.float64)
        total += float((head * (units[0] - units[1]) ** 2).sum(0).mean())
    return total


def numbers(verdicts: list[Any], name: str) -> list[float]:
    assert all(isinstance(v, Scored) for v in verdicts), verdicts
    return [v.labels[name] for v in verdicts]


def test_the_sum_over_layers(folder: Path) -> None:
    metric, a, b = lpips.load(folder, None), images(3, 40), images(3, 40, 2)
    found = numbers(metric.measure(a, ["p"] * 3, b), "lpips-full")
    np.testing.assert_allclose(found, [told(x, y, weights()) for x, y in zip(a, b, strict=True)], rtol=1e-5)
    small = lpips.load(folder)
    x, y = linear_uint8(a[0], 64, 64), linear_uint8(b[0], 64, 64)
    np.testing.assert_allclose(numbers(small.measure(a, ["p"] * 3, b), "lpips-64")[0], told(x, y, weights()), rtol=1e-5)


def test_equal_images_are_at_no_distance_and_order_does_not_matter(folder: Path) -> None:
    metric, a = lpips.load(folder), images(5, 32)
    assert numbers(metric.measure(a, [""] * 5, a), "lpips-64") == [0.0] * 5
    there = numbers(metric.measure(a, [""] * 5, a[::-1]), "lpips-64")
    np.testing.assert_allclose(there, there[::-1], rtol=1e-5)
    assert there[2] == 0.0 and min(there[:2]) > 0


def test_what_cannot_be_compared_is_unscored(folder: Path) -> None:
    a, b = images(4, 33), images(4, 33, 2)
    a[1], b[2] = 7, 0
    verdicts = lpips.load(folder).measure(a, [""] * 4, b)
    assert [isinstance(v, Scored) for v in verdicts] == [True, False, False, True]
    assert [v.reason for v in verdicts if isinstance(v, Unscored)] == [
        "degenerate: constant",
        "reference: degenerate: constant",
    ]
    tiny = lpips.load(folder, None).measure(images(2, 8), [""] * 2, images(2, 8, 2))
    assert all(isinstance(v, Unscored) for v in tiny)  # the network needs more pixels than that


def test_what_is_stored_beside_the_numbers(folder: Path) -> None:
    metric = lpips.load(folder)
    about = metric.about()
    assert (metric.id, metric.needs_reference, about["kind"], about["labels"]) == (
        "lpips-64",
        True,
        "metric",
        ["lpips-64"],
    )
    assert metric.version == f"0.1-{about['weights_sha256'][:8]}" and sorted(about["files"]) == [
        "alex.safetensors",
        "alexnet.safetensors",
    ]


def test_weights_that_are_not_there_or_damaged(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lin0\.weight \(missing\)"):
        lpips.load(folder / "alexnet.safetensors")
    state = weights()
    for changed, match in (
        ({"features.0.weight": np.zeros((64, 3, 3, 3), np.float32)}, r"\(64, 3, 3, 3\)"),
        ({"features.3.bias": np.full(192, np.nan, np.float32)}, "not finite"),
    ):
        safetensors.numpy.save_file({**state, **changed}, tmp_path / "all.safetensors")
        with pytest.raises(InputError, match=match):
            lpips.load(tmp_path / "all.safetensors")
    with pytest.raises(InputError):
        lpips.load(tmp_path / "nothing")


@pytest.mark.parametrize("shape", [(512, 512), (128, 128), (64, 64), (32, 32), (100, 77), (65, 63), (768, 512), (1, 3)])
def test_resizing_is_that_of_opencv(shape: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    image = np.random.default_rng(3).integers(0, 256, (*shape, 3), np.uint8)
    want = cv2.resize(image, (64, 64), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(linear_uint8(image, 64, 64), want)


def test_resizing_by_hand() -> None:
    image = np.zeros((8, 8, 1), np.uint8)
    image[3:5, 3:5, 0] = [[0, 100], [200, 101]]
    assert linear_uint8(image, 1, 1).tolist() == [[[100]]]  # the four middle pixels: 100.25
    ramp = np.arange(0, 250, 10, dtype=np.uint8).reshape(1, 25, 1)
    assert linear_uint8(ramp, 1, 5).ravel().tolist() == [20, 70, 120, 170, 220]  # every fifth, from the second on


@pytest.mark.oracle
@pytest.mark.parametrize("side", [64, 96])
def test_against_torchmetrics(folder: Path, tmp_path: Path, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    nn, state = torch.nn, weights()
    layers: list[Any] = []
    for k, (_, channels, kernel, stride, pad) in enumerate(lpips.LAYERS):
        if k in lpips.POOLED:
            layers.append(nn.MaxPool2d(3, 2))
        layers += [nn.Conv2d(3 if k == 0 else lpips.LAYERS[k - 1][1], channels, kernel, stride, pad), nn.ReLU()]
    features = nn.Sequential(*layers)
    features.load_state_dict({k[9:]: torch.tensor(v) for k, v in state.items() if k.startswith("features")})
    a, b = images(2, side), images(2, side, 2)
    with library_part("torchmetrics.functional.image.lpips") as library:
        monkeypatch.setattr(library, "_get_tv_model_features", lambda *_: features)
        net = library._LPIPS(pretrained=False, net="alex", pnet_rand=True)
        heads = {k: torch.tensor(v) for k, v in state.items() if k.startswith("lin")}
        net.load_state_dict(heads, strict=False)
        x, y = (torch.tensor(z.transpose(0, 3, 1, 2) / 127.5 - 1, dtype=torch.float32) for z in (a, b))
        with torch.no_grad():
            want = net(x, y).ravel().numpy()
        torch.save(net.state_dict(), tmp_path / "lpips.pth")
    for source in (folder, tmp_path / "lpips.pth"):
        metric = lpips.load(source, None)
        np.testing.assert_allclose(numbers(metric.measure(a, [""] * 2, b), "lpips-full"), want, atol=1e-4)
    assert metric.version == lpips.load(folder).version
