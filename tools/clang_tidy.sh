#!/bin/bash
# clang-tidy over csrc/ with the flags of a build that is configured for it and never built.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build
cmake -S . -B build/lint -G Ninja -DPython_EXECUTABLE="$(command -v python)" > build/lint.log 2>&1 ||
  { cat build/lint.log; exit 1; }
# g++'s flags, of which clang does not know all.
run-clang-tidy.py -quiet -p build/lint -j "$(nproc)" -extra-arg=-Wno-unknown-warning-option
