"""NudeNet v3 as its package ships it: the real model runs, on a face that matplotlib ships."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import cbook
from PIL import Image

from ine_jax.errors import InputError
from ine_jax.evaluation.detectors.base import Scored, Unscored
from ine_jax.evaluation.detectors.nudenet import LABELS, NudeNet

pytestmark = pytest.mark.oracle
package = pytest.importorskip("nudenet")
SHIPPED = Path(package.__file__).with_name("320n.onnx")


@pytest.fixture(scope="module")
def detector() -> NudeNet:
    return NudeNet.load()


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    path = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    return np.asarray(Image.open(str(path)).convert("RGB"))


def boxes(verdict: Any) -> list[tuple[Any, ...]]:
    return [(box["class"], box["score"], box["box"]) for box in verdict.boxes]


def test_arrays_are_read_as_the_package_reads_a_png(detector: NudeNet, face: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    Image.fromarray(face).save(path)
    (verdict,) = detector.detect(face[None])
    assert isinstance(verdict, Scored)
    told = package.NudeDetector().detect(str(path))
    assert boxes(verdict) == [(box["class"], round(box["score"], 6), box["box"]) for box in told]
    assert set(verdict.labels) == set(LABELS) and len(LABELS) == 18
    assert verdict.labels["FACE_FEMALE"] == max(box["score"] for box in verdict.boxes) > 0.25
    assert [label for label, score in verdict.labels.items() if score] == ["FACE_FEMALE"]
    # the order of colours matters: the package takes arrays blue first
    assert boxes(detector.detect(face[None, ..., ::-1])[0]) != boxes(verdict)


def test_the_labels_are_those_of_the_package() -> None:
    assert list(LABELS) == getattr(package.nudenet, "__labels")


def test_a_verdict_does_not_depend_on_its_batch(detector: NudeNet, face: np.ndarray) -> None:
    noise = np.random.default_rng(0)
    cuts = [face[i : i + 480, j : j + 480] for i in (0, 40, 80, 120) for j in (0, 16, 32)]
    cuts = [np.clip(cut + noise.normal(0, 12, cut.shape), 0, 255).astype(np.uint8) for cut in cuts]
    alone = [detector.detect(cut[None])[0] for cut in cuts]
    assert detector.detect(np.stack(cuts)) == alone
    assert detector.detect(np.stack(cuts[::-1])) == alone[::-1]
    assert sum(isinstance(verdict, Scored) and bool(verdict.boxes) for verdict in alone) >= 6
    assert detector.detect([cuts[0], face, cuts[1]]) == [alone[0], *detector.detect(face[None]), alone[1]]


def test_what_cannot_be_judged(detector: NudeNet, face: np.ndarray) -> None:
    bad = np.full((2, *face.shape), np.nan, np.float32)
    bad[1] = face / 255
    verdicts = detector.detect([np.zeros_like(face), *bad, face])
    assert [getattr(v, "reason", "scored") for v in verdicts] == [
        "degenerate: constant",
        "not finite",
        "float32 is not uint8",
        "scored",
    ]


def test_a_failing_model_is_no_verdict(detector: NudeNet, face: np.ndarray) -> None:
    class Broken:
        input_width = 320

        def detect_batch(self, images: list[np.ndarray], size: int) -> list[Any]:
            raise RuntimeError("no memory")

    verdicts = dataclasses.replace(detector, model=Broken()).detect(np.stack([face, face[::-1]]))
    assert verdicts == [Unscored("failed: RuntimeError: no memory")] * 2


def test_it_says_what_it_is(detector: NudeNet) -> None:
    about: Any = detector.about()
    assert detector.id == "nudenet"
    assert detector.version == f"{detector.package}-{about['weights'][:8]}"
    assert about["kind"] == "detector" and about["labels"] == list(LABELS)
    assert "320 px" in about["preprocessing"] and detector.package in about["preprocessing"]


def test_a_model_file_of_the_user(detector: NudeNet, face: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "own.onnx"
    data = SHIPPED.read_bytes()
    path.write_bytes(data)
    own = NudeNet.load(path, detector.sha256.upper())
    assert own.version == detector.version and own.detect(face[None]) == detector.detect(face[None])
    assert data.count(b"[320, 320]") == 1  # the file's own note of its size
    path.write_bytes(data.replace(b"[320, 320]", b"[640, 640]"))
    large = NudeNet.load(path)
    assert large.version != detector.version and "640 px" in large.about()["preprocessing"]
    (verdict,) = large.detect(face[None])
    assert isinstance(verdict, Scored)
    assert boxes(verdict) != boxes(detector.detect(face[None])[0])
    with pytest.raises(InputError, match="sha256"):
        NudeNet.load(path, detector.sha256)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"not a model", "own.onnx"),
        (b"\x0a\x08location\x12\x05a.bin", "other files"),
        ("classes", "classes"),
    ],
)
def test_other_files_are_refused(data: Any, told: str, tmp_path: Path) -> None:
    path = tmp_path / "own.onnx"
    if data == "classes":
        data = SHIPPED.read_bytes().replace(b"'FACE_MALE'", b"'FACE_MALL'")
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError, match=told) as caught:
        NudeNet.load(path)
    assert len(str(caught.value).splitlines()) == 3


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nudenet", None)
    with pytest.raises(InputError, match="not installed"):
        NudeNet.load()
