#!/bin/bash
# Builds the extension with CMake and runs every test of the SFT example against it.
# Takes the example's options: scripts/test_sft_wrapper.sh --expert-num 32
# Runs the active Python, or the one that PYTHON names.
set -e
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}

echo "Building kt_kernel_ext..."
cmake -S . -B build -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE="$(command -v "$PYTHON")"
cmake --build build -j "$(nproc)"

echo "Running tests..."
export PYTHONPATH="$PWD/build${PYTHONPATH:+:$PYTHONPATH}"
"$PYTHON" examples/test_moe_sft_wrapper.py --mode all "$@"

echo "All tests passed!"
