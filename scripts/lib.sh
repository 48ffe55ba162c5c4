# Shared by the two commands of the README: a private environment in .venv, made once and kept up to date.
# shellcheck shell=bash

# Tests start hundreds of processes; without stored bytecode each compiles the package again.
unset PYTHONDONTWRITEBYTECODE

say() { printf '%s\n' "$*" >&2; }

# Print the first Python >= 3.11 that can make environments; PYTHON=... names one.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3.12 python3.11 python3.13 python3 python; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      printf '%s\n' "$candidate"
      return 0
    fi
  done
  say "no Python 3.11 or newer with venv was found"
  say "install one, or name it: PYTHON=/path/to/python $0"
  return 2
}

# The environment that tests and demo use; an existing one with a working Python is kept.
make_venv() {
  if ! "$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
    local python
    python="$(find_python)"
    say "making $VENV with $("$python" --version)"
    "$python" -m venv "$VENV"
  fi
}

# install EXTRAS: put the package with these extras into the environment, unless that was done for this pyproject.toml.
# Any extras include the core. The second call needs no network.
install() {
  local stamp want
  want="$(cat pyproject.toml setup.py | cksum) $PWD"
  for stamp in "$VENV/.installed-${1:-}"*; do
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && "$VENV/bin/python" -c 'import ine_jax' >/dev/null 2>&1; then
      return 0
    fi
  done
  say "installing ine_jax${1:+[$1]} into $VENV"
  "$VENV/bin/python" -m pip install -qq --editable ".${1:+[$1]}"
  printf '%s' "$want" >"$VENV/.installed-${1:-core}"
}

# require MODULE PIP-ARGUMENTS...: install what provides MODULE unless it can be imported.
require() {
  local module="$1"
  shift
  if ! "$VENV/bin/python" -c "import $module" >/dev/null 2>&1; then
    say "installing $* into $VENV"
    "$VENV/bin/python" -m pip install -qq "$@"
  fi
}
