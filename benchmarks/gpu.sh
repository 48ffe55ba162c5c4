#!/usr/bin/env bash
# Every mode of `ine bench` at full size on a GPU, within ten minutes; without a GPU, the bundled model on the CPU.
#
#   bash benchmarks/gpu.sh [FOLDER]
#
# Needs this checkout, JAX and PyTorch; no network and no weights. FOLDER: result files and plots (runs/gpu by default).
# PYTHON: the interpreter (python3 by default). WHEELS: a folder of wheels of packages that this interpreter lacks;
# without diffusers, its rows are named as not measured. MINUTES: the time for all (9 by default); a mode that does not
# fit any more is left out, and says so. BATCH: images, and rows of the inversion, per batch on a GPU (16 by default).
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${1:-runs/gpu}
mkdir -p "$out"
packages=
trap 'rm -rf "$packages"' EXIT
if [ -n "${WHEELS:-}" ]; then
  packages=$(mktemp -d)
  "$python" -m pip install -q --no-index --no-deps --target "$packages" "$WHEELS"/*.whl || exit 1
fi
export PYTHONPATH="$PWD${packages:+:$packages}" HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=passive
export XLA_PYTHON_CLIENT_MEM_FRACTION=.5 # the other half is PyTorch's
ends=$((SECONDS + 60 * ${MINUTES:-9}))

platform=$("$python" -c 'import jax; print(jax.default_backend())' 2>/dev/null) || platform=
case $platform in
  gpu)
    batch=${BATCH:-16}
    model='{"model": "random-sd1"' sampler='"sampler": {"steps": 10, "batch": '$batch'}'
    inversion='"inversion": {"steps": 5, "batch": '$batch'}' items='"items": 64, "block": 32'
    others='"torch", "torch-compile", "diffusers-flax"'
    ;;
  ?*)
    echo "no GPU: the bundled model on $platform"
    model='{"model": "tiny"' sampler='"sampler": {"steps": 4, "batch": 8}'
    inversion='"inversion": {"steps": 2, "batch": 4}' items='"items": 16, "block": 8'
    others='"torch", "diffusers-flax"' # compiling PyTorch's loops takes minutes on a CPU
    ;;
  *) echo "$python cannot import jax: install it, or set PYTHON" >&2; exit 1 ;;
esac

# mode WHAT MORE: one benchmark in a process of its own
mode() {
  local left=$((ends - SECONDS))
  if [ $left -lt 20 ]; then
    echo "$1 not measured: no time left"
    return
  fi
  timeout $left "$python" -W ignore - "$1" "$model, $sampler, $inversion, $items, $2, \"out\": \"$out/$1.json\"}" <<'PYTHON'
import logging
import sys

logging.disable(logging.WARNING)
from ine_jax.cli.benching import measured
from ine_jax.config import BenchConfig, yaml_file
from ine_jax.errors import IneError

try:
    lines, _ = measured(sys.argv[1], yaml_file.loads(sys.argv[2], BenchConfig))
except IneError as error:
    sys.exit(str(error))
print(*lines, sep="\n")
PYTHON
  local code=$?
  case $code in
    0) ;;
    124) echo "$1 not measured: no time left" ;;
    *) echo "$1 not measured: exit code $code" ;;
  esac
  echo
}

mode sampling "\"baselines\": [$others]"
mode inversion "\"baselines\": [$others]"
mode guards '"guards": ["cfg", "sld-max"]'
mode evaluation '"baselines": ["torch"]'
mode cold-start '"baselines": ["torch"], "repeats": 1'
