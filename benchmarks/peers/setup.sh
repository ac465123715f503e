#!/bin/bash
# What `make peers` does: .cache/peers/daft ($PEERS), an environment of its own for what the product is compared with.
# `lock`: pins requirements.in again, with the product's own torch, numpy and pyarrow. The Makefile sets variables.
set -euo pipefail
HERE=benchmarks/peers PIP="$VENV/bin/uv pip"

lock() {
  $PIP compile $HERE/requirements.in --universal --python-version 3.11 --upgrade --generate-hashes --no-annotate \
    --no-header --no-emit-index-url --no-emit-find-links --quiet --output-file $HERE/requirements.lock \
    --constraint <(sed -nE 's/^((torch|numpy|pyarrow|safetensors)==[^ ;]*).*/\1/p' requirements.lock)
}

# The lock has the digests of PyPI's wheels: those of another index of torch cannot be compared with them.
install() {
  local wanted=$HERE/requirements.lock
  if [ -n "$TORCH_INDEX" ]; then
    wanted=$PEERS/.requirements
    awk '/^[^ ]/ { keep = !/^(torch|(nvidia|cuda)-[a-z0-9-]*)==/ } keep' $HERE/requirements.lock >"$wanted"
  fi
  $PIP sync --quiet --python $PEERS/bin/python --require-hashes --compile-bytecode "$wanted"
  if [ -n "$TORCH_INDEX" ]; then
    $PIP install --quiet --python $PEERS/bin/python --no-deps --index "$TORCH_INDEX" \
      "$(sed -n 's/^\(torch==[^ ;]*\).*/\1/p' $HERE/requirements.lock)"
  fi
}

if [ "${1:-}" = lock ]; then
  lock
  exit
fi
WANTED=$(cat $HERE/requirements.lock $HERE/setup.sh - <<<"$TORCH_INDEX" | sha256sum)
if [ -f $PEERS/.set-up ] && [ "$(cat $PEERS/.set-up)" = "$WANTED" ]; then exit; fi
[ -x $PEERS/bin/python ] || "$VENV/bin/uv" venv --quiet --python "$VENV/bin/python" $PEERS
install
echo "$WANTED" >$PEERS/.set-up
