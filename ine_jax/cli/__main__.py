"""The program `ine`, also `python -m ine_jax.cli`."""

import sys

from ine_jax import progress


def program() -> int:
    """Run the command line of this process; signals are handled before anything heavy is imported."""
    as_json = b'{"ok": false, "exit_code": 75, "error": ["interrupted"]}\n' if "--json" in sys.argv[1:] else b""
    progress.receive_signals(as_json)
    from ine_jax.cli.main import main

    code = main(speaks=True)
    progress.ignore_signals()
    if pod := sys.modules.get("ine_jax.training.pod"):  # loaded where several processes may train together
        pod.leave(code)
    return code


if __name__ == "__main__":
    sys.exit(program())
