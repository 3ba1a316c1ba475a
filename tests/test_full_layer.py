"""examples/full_layer.py as a user runs it, on small sizes."""

import re
import shlex

import pytest
from test_examples import check_latency, run, run_with

from kt_kernel.methods import METHODS

SCRIPT = "examples/full_layer.py"
SMALL = shlex.split("--expert-num 6 --hidden-size 256 --intermediate-size 128 --top-k 3 --qlen 16")
BYTES = {"bf16": 2, "int8": 1, "int4": 0.5, "int4_kgroup": 0.5 + 2 / 32}


@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if m.sft])
def test_every_method_loads_and_trains(method):
    result = run(SCRIPT, "--method", method, "--group-size", "32", *SMALL)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{method}, ")
    assert ": 6 experts of 256 x 128, top 3, rank 16, 16 tokens\n" in result.stdout
    for name in ("forward", "backward", "forward+backward"):
        check_latency(result.stdout, name, 16)
    bytes_each = float(re.search(r"^weights .* ([\d.]+) bytes each$", result.stdout, re.M)[1])
    assert bytes_each >= BYTES[METHODS[method].format]
    for moment in ("before loading", "loaded", "trained"):
        assert re.search(rf"^{moment} +\d+\.\d\d GB", result.stdout, re.M), moment


def test_weights_in_a_file(tmp_path):
    result = run(SCRIPT, "--offload-folder", str(tmp_path), *SMALL)
    assert result.returncode == 0, result.stderr
    check_latency(result.stdout, "forward+backward", 16)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_none_is_an_error_in_one_line():
    result = run(SCRIPT, "--offload-folder", "no/such", *SMALL)
    assert result.returncode == 1
    wanted = "error: offload_folder: wanted a folder that exists, got 'no/such'\n"
    assert result.stderr == wanted


def test_results_that_are_not_finite_fail_it():
    patch = (
        "from kt_kernel import KTMoEWrapper as W; right = W.backward\n"
        "def backward(*a):\n"
        "    grad_input, loras = right(*a)\n"
        "    loras['grad_up_lora_a'][1] = float('nan')\n"
        "    return grad_input, loras\n"
        "W.backward = backward"
    )
    result = run_with(patch, SCRIPT, *SMALL)
    assert result.returncode == 1
    assert result.stderr == "error: a result is not finite\n"


def test_inference_methods_are_refused():
    result = run(SCRIPT, "--method", "AMXINT8", *SMALL)
    assert result.returncode == 2
    assert "AMXINT8 is no SFT method" in result.stderr
