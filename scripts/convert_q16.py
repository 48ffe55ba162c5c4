"""Convert the published prompt vectors of the detector Q16 from their pickle to safetensors.

    python -m scripts.convert_q16 prompts.p q16.safetensors

The pickle (`data/ViT-L-14/prompts.p` of github.com/ml-research/Q16) holds one NumPy array, or nested lists of numbers.
It is decoded without executing anything in it. The new file is read back and compared.
"""

import argparse
import hashlib
import math
from pathlib import Path

import numpy as np
import safetensors.numpy

from ine_jax.errors import InputError
from ine_jax.storage.pickles.opcodes import Call, Global, PickleError, interpret
from ine_jax.storage.safetensors_writer import write_safetensors

NAME = "prompts"
MAX_BYTES = 16 * 1024 * 1024
_DTYPES = {"f2": np.float16, "f4": np.float32, "f8": np.float64}
_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")  # before and since NumPy 2


def convert(source: Path, target: Path) -> tuple[np.ndarray, str]:
    """Write the vectors [2, width] (appropriate, inappropriate) in their own dtype.

    Returns:
        The vectors and the SHA-256 of the new file.

    Raises:
        InputError: `source` does not hold two finite vectors, or `target` exists or does not end in .safetensors.
    """
    vectors = read_numbers(source)
    if vectors.ndim != 2 or len(vectors) != 2 or not vectors.size or not np.isfinite(vectors).all():
        given = f"{source}: an array {list(vectors.shape)} of {vectors.dtype}, or NaN in it"
        raise InputError(given, "two finite vectors", "take prompts.p as Q16 published it for your CLIP")
    if target.suffix != ".safetensors" or target.exists() or target.is_symlink():
        raise InputError(f"{target}", "a new file that ends in .safetensors", "choose another name")
    origin = hashlib.sha256(source.read_bytes()).hexdigest()
    write_safetensors(target, {NAME: vectors}, {"format": "ine_jax.q16", "source_sha256": origin})
    back = safetensors.numpy.load_file(target)[NAME]
    if back.dtype != vectors.dtype or not np.array_equal(back, vectors):
        target.unlink(missing_ok=True)
        raise RuntimeError(f"{target} does not hold the vectors that were written")
    return vectors, hashlib.sha256(target.read_bytes()).hexdigest()


def read_numbers(path: Path) -> np.ndarray:
    """The array that `pickle.dump` wrote, in its own dtype; nested lists as float32.

    Raises:
        InputError: no such file, too large, damaged, or anything but one array of floats.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise PickleError(f"larger than {MAX_BYTES >> 20} MiB")
        value, end, _ = interpret(raw)
        if end != len(raw):
            raise PickleError("bytes after its end")
        return _array(value) if isinstance(value, Call) else _nested(value)
    except (PickleError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"{path}: {reason}",
            "a pickle of one NumPy array of floats, or of lists of them",
            "get the file again from its author; nothing of it was executed",
        ) from error


def _array(call: Call) -> np.ndarray:
    """The array of `_reconstruct(ndarray, (0,), b"b")` with state (version, shape, dtype, order, bytes).

    The dtype is `dtype("f4", align, copy)` with a state that begins with (version, byte order).
    """
    match call:
        case Call(
            what=Global(module=module, name="_reconstruct"),
            args=(Global(module="numpy", name="ndarray"), *_),
            state=(
                int(),
                tuple() as shape,
                Call(what=Global("numpy", "dtype"), args=(str(name), *_), state=(int(), "<", *_)),
                by_column,
                data,
            ),
        ) if module in _CORES and name in _DTYPES and all(type(side) is int and side >= 0 for side in shape):
            dtype, raw = np.dtype(_DTYPES[name]), _bytes(data)
            if len(shape) > 8 or math.prod(shape) * dtype.itemsize != len(raw):
                raise PickleError(f"an array of shape {list(shape)[:8]} in {len(raw)} bytes")
            return np.frombuffer(raw, dtype).reshape(shape, order="F" if by_column is True else "C")
    raise PickleError(f"it asks for {call.what if isinstance(call.what, Global) else 'a call'}, not for a float array")


def _bytes(data: object) -> bytes:
    """Bytes as protocols 3 and 4 write them, or as text in Latin-1 (protocol 2; Python 3 adds a codec call)."""
    match data:
        case Call(what=Global("_codecs", "encode"), args=(text, "latin1")):
            data = text
    try:
        return data if isinstance(data, bytes) else str.encode(data, "latin-1")  # type: ignore[arg-type]
    except (TypeError, UnicodeEncodeError) as error:
        raise PickleError("an array without its bytes") from error


def _nested(value: object) -> np.ndarray:
    rows = value if isinstance(value, list | tuple) else []
    if not all(isinstance(row, list | tuple) and all(type(x) in (int, float) for x in row) for row in rows):
        rows = []
    if not rows or len({len(row) for row in rows}) != 1:
        raise PickleError(f"a {type(value).__name__}, not a float array")
    try:
        return np.asarray(rows, np.float32)
    except OverflowError as error:
        raise PickleError("a number beyond float32") from error


def main() -> None:
    """Convert, and print how to use the new file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="prompts.p")
    parser.add_argument("target", type=Path, help="new .safetensors file")
    args = parser.parse_args()
    try:
        vectors, digest = convert(args.source, args.target)
    except InputError as error:
        raise SystemExit(str(error)) from error
    print(f"{args.source} -> {args.target}: 2 x {vectors.shape[1]} {vectors.dtype}, read back equal, sha256 {digest}")
    print(f"detector: {{kind: q16, weights: openai/clip-vit-large-patch14, prompts: {args.target}}}")


if __name__ == "__main__":
    main()
