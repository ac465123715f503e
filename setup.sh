#!/bin/bash
# What `make setup` does: .venv from requirements.lock; nothing where it is that already. The Makefile sets variables.
set -euo pipefail
PIP="$VENV/bin/uv pip" STAMP=$VENV/.set-up
CXX=${CXX:-c++}
BASELINE=${HNSWLIB_MARCH:+-march=$HNSWLIB_MARCH}
CHOICES="HNSWLIB_MARCH ?= $HNSWLIB_MARCH
TORCH_INDEX ?= $TORCH_INDEX"

stop() { echo "make: $1" >&2; exit 1; }

check_python() {
  "$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' ||
    stop "$PYTHON is $("$PYTHON" --version); Python 3.11 to 3.13 is needed: make PYTHON=python3.12 $GOALS"
}

# hnswlib comes as source. What its build would say after a minute, in a hundred lines, is said in one.
check_compiler() {
  local source="hnswlib is built from source" any="make HNSWLIB_MARCH= $GOALS builds for any CPU"
  command -v "${CXX%% *}" >/dev/null ||
    stop "no C++ compiler ($CXX); $source: apt-get install g++ (or your system's like)"
  "$PYTHON" -c 'import os, sys, sysconfig as s; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))' ||
    stop "$PYTHON has no headers (Python.h); $source: apt-get install python3-dev (or your system's like)"
  $CXX $BASELINE -x c++ -fsyntax-only /dev/null 2>/dev/null ||
    stop "$CXX does not take $BASELINE; $source: $any, HNSWLIB_MARCH=NAME for another"
  if [ "$HNSWLIB_MARCH" = x86-64-v3 ] && [ -r /proc/cpuinfo ] && ! grep -qw avx2 /proc/cpuinfo; then
    stop "this CPU is older than $HNSWLIB_MARCH (no AVX2); $source: $any"
  fi
}

say_what_comes() {
  if [ -n "$TORCH_INDEX" ]; then
    echo "setting up $VENV, torch from TORCH_INDEX"
    return
  fi
  echo "setting up $VENV (torch brings about 4 GB; minutes the first time, seconds from the cache)"
  if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then
    echo "no GPU here: 3 GB of that are CUDA libraries that nothing will use. An index of torch without them saves" \
      "that, the one that PyTorch's installation page names for CPU: make $GOALS TORCH_INDEX=URL (remembered in $VENV)"
  fi
}

# uv keeps what it built by package and settings, not by environment: the setting is its name for this build.
install() {
  HNSWLIB_NO_NATIVE=1 CFLAGS=$BASELINE CXXFLAGS=$BASELINE \
    $PIP sync --quiet --python "$VENV/bin/python" --require-hashes --compile-bytecode --link-mode=hardlink \
    --config-settings-package "hnswlib:march=${HNSWLIB_MARCH:-any}" "$1"
}

# The lock has the digests of PyPI's wheels: those of another index cannot be compared with them.
install_torch() {
  local version
  version=$(sed -n 's/^torch==\([^ ;]*\).*/\1/p' requirements.lock)
  $PIP install --quiet --python "$VENV/bin/python" --no-deps --compile-bytecode --index "$TORCH_INDEX" "torch==$version"
}

main() {
  local wanted
  wanted=$(cat requirements.lock pyproject.toml setup.sh - <<<"$CHOICES" | sha256sum)
  if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$wanted" ]; then exit 0; fi
  check_python
  check_compiler
  say_what_comes
  [ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
  # What stands there in that version would stay, whatever it was built for and wherever it came from.
  if [ -f "$STAMP" ] && [ "$(cat "$VENV/.choices" 2>/dev/null)" != "$CHOICES" ]; then
    $PIP uninstall --quiet --python "$VENV/bin/python" hnswlib torch
  fi
  if [ -n "$TORCH_INDEX" ]; then
    awk '/^[^ ]/ { keep = !/^(torch|(nvidia|cuda)-[a-z0-9-]*)==/ } keep' requirements.lock >"$VENV/.requirements"
    install "$VENV/.requirements"
    install_torch
  else
    install requirements.lock
  fi
  $PIP install --quiet --python "$VENV/bin/python" --no-deps --no-build-isolation --editable .
  echo "$CHOICES" >"$VENV/.choices"
  echo "$wanted" >"$STAMP"
}

main
