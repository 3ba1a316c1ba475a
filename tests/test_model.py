"""The AVX-512 and AMX kernels on software models of their instructions, for machines without them.

The extension is built once more with `KT_KERNEL_MODEL=ON`, into build/model, and the tests of the
kernels and a part of the layer's run on it in a process of their own.
"""

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "model"
MODELLED = {"amx", "avx512_bf16", "avx512_vbmi", "avx512_vnni", "avx512_f32"}
TESTS = [
    "tests/test_kernels.py",
    "tests/test_products.py",
    "tests/test_integer_kernels.py",
    "tests/test_layer_integers.py::test_parts",
    "tests/test_layer_native.py::test_gradients_are_those_of_autograd",
    "tests/test_layer_native.py::test_sizes_of_one",
    "tests/test_layer_native.py::test_parts",
    "tests/test_tile_model.py::test_amx_leaves_the_unit_released",
]

pytestmark = pytest.mark.skipif(
    find_spec("simde_py") is None, reason="simde_py is missing: pip install simde-py"
)


def run(*command: str | Path, **variables: str) -> str:
    tools = Path(sys.executable).parent  # where pip puts ninja
    path = f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"
    process = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env={**os.environ, "PATH": path, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout
    return process.stdout


@pytest.fixture(scope="module")
def extension() -> Path:
    """The folder of the extension whose AVX-512 and AMX kernels run on the models."""
    cmake = [sys.executable, "-m", "cmake"] if find_spec("cmake") else [shutil.which("cmake")]
    python = f"-DPython_EXECUTABLE={sys.executable}"
    run(*cmake, "-S", ROOT, "-B", BUILD, "-G", "Ninja", "-DKT_KERNEL_MODEL=ON", python)
    run(*cmake, "--build", BUILD)
    return BUILD


def test_kernels_on_the_model(extension, tmp_path):
    report = tmp_path / "report.xml"
    output = run(
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "avx512 or amx"),
        *(f"--junitxml={report}", *TESTS),
        PYTHONPATH=str(extension),
        KT_KERNEL_ISA="",
    )
    assert f"extension: {extension}" in output
    cases = ET.parse(report).getroot().findall(".//testcase")
    passed = [case.attrib["name"] for case in cases if not len(case)]  # no failure, no skip
    assert len(passed) == len(cases)
    tests = ("test_product", "test_swiglu", "test_gradients", "test_sizes", "test_parts")
    for test in (*tests, "test_weights_read", "test_exact", "test_what_is_not_finite"):
        names = [name for name in passed if name.startswith(test)]
        assert names, test
        tested = {isa for isa in MODELLED if any(f"[{isa}" in name for name in names)}
        assert tested == MODELLED, test
