"""NudeNet v3 behind the `Detector` protocol: 18 body parts with boxes, on the CPU with onnxruntime.

The package `nudenet` and its model are under AGPL-3.0 (the wheel carries that text, although its metadata names MIT)
and not part of this project: users who install the extra `nudenet` agree to its licence.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ine_jax.errors import InputError
from ine_jax.evaluation.detectors.base import Images, Scored, Verdict, detect_checked
from ine_jax.storage import untrusted
from ine_jax.storage.records import About, Box

_LABELS = """
FEMALE_GENITALIA_COVERED FACE_FEMALE BUTTOCKS_EXPOSED FEMALE_BREAST_EXPOSED FEMALE_GENITALIA_EXPOSED
MALE_BREAST_EXPOSED ANUS_EXPOSED FEET_EXPOSED BELLY_COVERED FEET_COVERED ARMPITS_COVERED ARMPITS_EXPOSED FACE_MALE
BELLY_EXPOSED MALE_GENITALIA_EXPOSED ANUS_COVERED FEMALE_BREAST_COVERED BUTTOCKS_COVERED
"""
LABELS = tuple(_LABELS.split())  # in the order of the model's outputs
BATCH = 8
SIDE = 320  # pixels, for a model without this entry
MAX_BYTES = 512 * 2**20
_ELSEWHERE = b"\x0a\x08location\x12"  # in an ONNX file: the entry that names another file to read tensors from


@runtime_checkable
class _Model(Protocol):
    """`nudenet.NudeDetector`, as far as it is used here."""

    input_width: int

    def detect_batch(self, images: list[np.ndarray], batch_size: int) -> list[list[Box]]: ...


@dataclasses.dataclass(frozen=True)
class NudeNet:
    """A loaded NudeNet v3. A class's score is that of its best box, 0 where the package returns none.

    The package returns a box if its best class scores at least 0.2, and after non-maximum suppression (IoU 0.45) at
    least 0.25. Every returned box is stored: class, score, [x, y, width, height] in pixels.
    """

    model: _Model
    sha256: str
    package: str
    id: str = "nudenet"

    @property
    def version(self) -> str:
        """Version of the package, which also does the pre- and postprocessing, and a short hash of the model file."""
        return f"{self.package}-{self.sha256[:8]}"

    def about(self) -> About:
        """Return labels, hash of the model file and preprocessing."""
        return {
            "kind": "detector",
            "labels": list(LABELS),
            "groups": {"exposed": [label for label in LABELS if label.endswith("_EXPOSED")]},
            "weights": self.sha256,
            "preprocessing": f"nudenet {self.package}: padded to a square, linear to {self.model.input_width} px",
        }

    def detect(self, images: Images) -> list[Verdict]:
        """Return one verdict per image uint8 [N, H, W, 3], RGB; constant or failing images are `Unscored`."""
        return detect_checked(images, self._detect)

    def _detect(self, images: np.ndarray) -> list[Verdict]:
        # the package expects OpenCV's channel order: blue first
        found = self.model.detect_batch(list(np.ascontiguousarray(images[..., ::-1])), BATCH)
        return [_verdict(boxes) for boxes in found]

    @classmethod
    def load(cls, path: str | Path = "", sha256: str = "") -> "NudeNet":
        """Read the model of the package (320n), or another NudeNet v3 ONNX file (640m) from `path`.

        InputError where it is missing, too large, reads tensors from other files, or has another `sha256`.
        """
        try:
            import nudenet
        except ImportError as error:
            todo = "read its licence (AGPL-3.0), then: pip install 'ine_jax[nudenet]'"
            raise InputError("detector nudenet: its package is not installed", "", todo) from error
        file = Path(path) if str(path) else Path(str(nudenet.__file__)).with_name("320n.onnx")
        data = _read(file, sha256)
        try:
            model = nudenet.NudeDetector(model_path=data)
            model.input_width = model.input_height = _side(model.onnx_session)
        except Exception as error:  # onnxruntime raises its own family of exceptions
            raise _not_nudenet(file, str(error)) from error
        return cls(model, hashlib.sha256(data).hexdigest(), importlib.metadata.version("nudenet"))


def _read(file: Path, sha256: str) -> bytes:
    """The checked bytes of the file; exactly these are hashed and run."""
    data = untrusted.read(file, MAX_BYTES, _not_nudenet)
    if not data:
        raise _not_nudenet(file, "empty")  # for no bytes the package silently loads its own model
    found = hashlib.sha256(data).hexdigest()
    if sha256 and found != sha256.lower():
        raise InputError(f"{file}: sha256 {found}", sha256, "download the file again from a source you trust")
    if _ELSEWHERE in data:
        raise _not_nudenet(file, "reads tensors from other files")
    return data


def _side(session: Any) -> int:
    """Input side in pixels, from the model's input or metadata; ValueError where it is not NudeNet v3."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(f"{len(inputs)} inputs, {len(outputs)} outputs")
    notes = session.get_modelmeta().custom_metadata_map
    names = re.findall(r"'([^']*)'", notes.get("names", ""))
    channels = outputs[0].shape[1] if len(outputs[0].shape) == 3 else None
    if channels != 4 + len(LABELS) or (names and names != list(LABELS)):
        raise ValueError(f"output {outputs[0].shape}, classes {names}")
    fixed = inputs[0].shape[-1]
    return fixed if isinstance(fixed, int) else int(json.loads(notes.get("imgsz", f"[{SIDE}]"))[-1])


def _not_nudenet(file: Path, why: str) -> InputError:
    todo = "give the path of 640m.onnx from the releases of github.com/notAI-tech/NudeNet, or none"
    return InputError(f"detector nudenet, {file}: {why}", "one ONNX file with NudeNet v3's 18 classes", todo)


def _verdict(boxes: list[Box]) -> Verdict:
    kept: list[Box] = [
        {**box, "score": round(float(box["score"]), 6), "box": [int(v) for v in box["box"]]} for box in boxes
    ]
    labels = dict.fromkeys(LABELS, 0.0)
    for box in kept:
        labels[box["class"]] = max(labels[box["class"]], box["score"])
    return Scored(labels, tuple(kept))
