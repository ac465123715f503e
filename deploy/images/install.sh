#!/bin/bash
# The steps of the images. The Dockerfiles here call them, and `make test-slow` runs them in a bare folder.
#
#   install.sh libraries TARGET cpu|cuda  a Python environment with all that pinnerformer needs
#   install.sh app TARGET                 into it, pinnerformer: launcher, workers, operator's commands
#   install.sh dataflow TARGET            into it, what Beam's Dataflow client needs
#   install.sh flink TARGET FLINK_HOME    Beam's classes for Flink's lib, and Beam's job server (needs Maven)
#
# TORCH_INDEX=URL     torch without CUDA is there; `cpu` needs it, and PyTorch's installation page names it
# HNSWLIB_MARCH=NAME  what hnswlib is compiled for, never this machine's own CPU (x86-64-v3; empty: any CPU)
# PYTHON, UV          programs, where they are not on the PATH
set -euo pipefail
SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
PYTHON=${PYTHON:-python3}
HNSWLIB_MARCH=${HNSWLIB_MARCH-x86-64-v3}
BASELINE=${HNSWLIB_MARCH:+-march=$HNSWLIB_MARCH}

stop() { echo "install.sh: $1" >&2; exit 1; }

# What installs is not installed: uv lies beside the environment, and goes at the end.
find_uv() {
  if [ -n "${UV:-}" ]; then return; fi
  "$PYTHON" -m venv "$TARGET.tools"
  "$TARGET.tools/bin/python" -m pip install --quiet --disable-pip-version-check \
    "uv==$(sed -n 's/^UV_VERSION := //p' "$SOURCE/Makefile")"
  UV=$TARGET.tools/bin/uv
  trap 'rm -rf "$TARGET.tools"' EXIT
}

into_target() { "$UV" pip install --quiet --python "$TARGET/bin/python" --no-deps "$@"; }

# The images' lock has no test tools and no Triton; `cpu` leaves out CUDA and the torch that wants it.
install_libraries() {
  local lock=$SOURCE/deploy/images/requirements.lock wanted=$TARGET.requirements
  case $DEVICE in
    cpu)
      [ -n "${TORCH_INDEX:-}" ] || stop "cpu: say TORCH_INDEX=URL, an index that has torch without CUDA"
      awk '/^[^ ]/ { keep = !/^(torch|(nvidia|cuda)-[a-z0-9-]*)==/ } keep' "$lock" >"$wanted"
      ;;
    cuda) cp "$lock" "$wanted" ;;
    *) stop "$DEVICE: cpu or cuda" ;;
  esac
  command -v "${CXX:-c++}" >/dev/null || stop "no C++ compiler (${CXX:-c++}); hnswlib is built from source"
  "$PYTHON" -m venv --without-pip "$TARGET"
  HNSWLIB_NO_NATIVE=1 CFLAGS=$BASELINE CXXFLAGS=$BASELINE into_target --require-hashes \
    --config-settings-package "hnswlib:march=${HNSWLIB_MARCH:-any}" -r "$wanted"
  rm "$wanted"
  if [ "$DEVICE" = cpu ]; then
    into_target --index "$TORCH_INDEX" "torch==$(sed -n 's/^torch==\([^ ;]*\).*/\1/p' "$lock")"
  fi
}

[ $# -ge 2 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2; }
STEP=$1 TARGET=$2
case $STEP in
  libraries) DEVICE=${3:?cpu or cuda}; find_uv; install_libraries ;;
  app) find_uv; into_target --no-build-isolation "$SOURCE" ;;
  dataflow) find_uv; into_target -r "$SOURCE/deploy/dataflow/requirements.txt" ;;
  flink) cd "$SOURCE" && "$PYTHON" -m engines.flink.image --flink-home "${3:?the folder of Flink}" --out "$TARGET" ;;
  *) stop "$STEP: libraries, app, dataflow or flink" ;;
esac
