"""One module of an installed library, without the package's `__init__`, which asks for torchvision."""

import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest


@contextmanager
def library_part(name: str) -> Iterator[ModuleType]:
    """Import module `a.b.c` with `a` and `a.b` as bare packages; what was imported is forgotten afterwards."""
    package = name.split(".")[0]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    before = {key: sys.modules.pop(key) for key in list(sys.modules) if key.split(".")[0] == package}
    try:
        parts = name.split(".")[:-1]
        for i in range(len(parts)):
            shell = ModuleType(".".join(parts[: i + 1]))
            shell.__path__ = [str(Path(spec.origin).parent.joinpath(*parts[1 : i + 1]))]
            shell._logger = logging.getLogger(package)  # type: ignore[attr-defined]  # torchmetrics asks for it
            sys.modules[shell.__name__] = shell
        yield importlib.import_module(name)
    finally:
        for key in [key for key in sys.modules if key.split(".")[0] == package]:
            del sys.modules[key]
        sys.modules.update(before)
