"""What TPUs need before JAX starts them: room for the recursion of their compiler.

The compiler emits each operation on a fiber with a stack of 64 KB. Where several convolutions are fused, its cost model
calls itself once per convolution with 10 KB each, and Stable Diffusion's UNet overflows the stack from about 16 rows
per chip on (libtpu 0.0.42.1 on v5e: SIGSEGV in `FusedSpatialMajorConvolution::CalculateClassicConvWindowsCost`).
"""

import importlib.util
import os
from collections.abc import MutableMapping

VARIABLE = "LIBTPU_INIT_ARGS"
FLAG = "fibers_default_thread_stack_size"
STACK = 1 << 20  # bytes; only pages that are used take memory


def enlarge_stacks(environ: MutableMapping[str, str] | None = None) -> None:
    """Add the stack size to the arguments of the TPU library, unless they already hold one or there is no library.

    It must run before JAX starts its first device of the process.
    """
    variables = os.environ if environ is None else environ
    given = variables.get(VARIABLE, "")
    if FLAG not in given and importlib.util.find_spec("libtpu") is not None:
        variables[VARIABLE] = f"{given} --{FLAG}={STACK}".strip()
