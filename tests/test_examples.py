"""The scripts of examples/ and scripts/, run as a user runs them, on small sizes."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from example_scripts import INFERENCE, ROOT, SFT, SMALL, run, run_with

from kt_kernel.methods import METHODS

LATENCY = r"^{} +(\S+) ms mean +(\S+) ms median +(\S+) tokens/s$"


def sections(output):
    return re.findall(r"^=== Testing (.*) \(\w+\) ===$", output, re.MULTILINE)


def check_latency(output, name, qlen):
    found = re.search(LATENCY.format(re.escape(name)), output, re.MULTILINE)
    mean, median, rate = map(float, found.groups())
    assert 0 < median < 10 * mean
    assert rate == pytest.approx(qlen / mean * 1e3, rel=0.01, abs=0.1)


@pytest.mark.parametrize("method", [method for method in METHODS.values() if method.sft])
def test_all_modes_of_the_sft_script(method):
    result = run(SFT, "--mode", "all", "--method", method.name, *SMALL)
    assert result.returncode == 0, result.stderr
    assert sections(result.stdout) == [
        "forward accuracy",
        "backward accuracy",
        "training loop",
        "performance",
    ]
    assert f"({method.name}) ===" in result.stdout
    for name in ("output", "grad_input", "grad_weights", "grad_gate_lora_a", "grad_down_lora_b"):
        limit = method.forward_limit if name == "output" else method.backward_limit
        line = rf"^{name} .*limit {100 * limit:g}%: passed$"
        assert re.search(line, result.stdout, re.MULTILINE), name
    losses = [float(loss) for loss in re.findall(r"loss (\d\.\d+)$", result.stdout, re.MULTILINE)]
    assert losses[0] == 1
    assert losses[-1] < 0.05
    for name in ("forward", "backward", "forward+backward"):
        check_latency(result.stdout, name, 16)
    assert result.stdout.endswith("=== All tests passed! ===\n")
    assert "FAILED" not in result.stdout


@pytest.mark.parametrize(
    ("mode", "title"), [("forward", "forward accuracy"), ("training", "training loop")]
)
def test_one_mode_runs_alone(mode, title):
    result = run(SFT, "--mode", mode, "--method", "AMXBF16_SFT", "--threads", "2", *SMALL)
    assert result.returncode == 0, result.stderr
    assert sections(result.stdout) == [title]


def test_tensor_parallel_parts_and_another_rank():
    options = ["--threadpool-count", "2", "--lora-rank", "5", "--lora-alpha", "10"]
    result = run(SFT, "--mode", "backward", *options, *SMALL)
    assert result.returncode == 0, result.stderr


def output_error(output):
    return float(re.search(r"^output +error mean (\S+)%", output, re.MULTILINE)[1])


def test_smaller_groups_err_less():
    method, errors = ["--mode", "forward", "--method", "AMXINT4_KGroup_SFT"], []
    for size in ("128", "32"):
        result = run(SFT, *method, "--group-size", size, *SMALL)
        assert result.returncode == 0, result.stderr
        errors.append(output_error(result.stdout))
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--group-size", "48"], "error: group_size: wanted 32, 64 or 128, got 48"),
        (
            ["--group-size", "64", "--intermediate-size", "96"],
            "error: moe_intermediate_size: wanted a multiple of threadpool_count=1 times ",
        ),
        (["--threadpool-count", "3"], "error: threadpool_count=3 does not divide"),
    ],
)
def test_sizes_that_do_not_fit_each_other_are_one_line(options, message):
    result = run(SFT, "--method", "AMXINT4_KGroup_SFT", *SMALL, *options)
    assert result.returncode == 1
    assert result.stderr.startswith(message), result.stderr
    assert result.stderr.count("\n") == 1


def test_wrapper_against_native_decides_by_the_overhead_it_prints():
    sizes = shlex.split(
        "--expert-num 8 --hidden-size 1024 --intermediate-size 512 --top-k 4 --qlen 64"
    )
    options = ["--mode", "perf", "--compare-native", "--warmup", "2", "--repeat", "10"]
    result = run(SFT, *options, *sizes)
    overheads = re.findall(r"wrapper overhead (-?[\d.]+)%, limit 5%: (\w+)$", result.stdout, re.M)
    assert len(overheads) == 2, result.stderr
    for percent, verdict in overheads:
        assert verdict == ("passed" if float(percent) < 5 else "FAILED") or percent == "5.0"
    failed = any(verdict == "FAILED" for _, verdict in overheads)
    assert result.returncode == (1 if failed else 0)


def test_accuracy_of_every_inference_method():
    result = run(INFERENCE, "--mode", "accuracy", *SMALL)
    assert result.returncode == 0, result.stderr
    tested = re.findall(r"^=== Testing accuracy \((\w+)\) ===$", result.stdout, re.M)
    assert tested == [method.name for method in METHODS.values() if not method.sft]
    limits = re.findall(r"^output .*limit (\d+)%: passed$", result.stdout, re.M)
    assert limits == ["5", "5", "10", "35", "20"]


def test_speed_of_one_inference_method():
    result = run(INFERENCE, "--mode", "perf", "--method", "AMXBF16", *SMALL)
    assert result.returncode == 0, result.stderr
    check_latency(result.stdout, "forward", 16)


@pytest.mark.parametrize(
    ("script", "method", "message"),
    [
        (SFT, "BF16", "BF16 is no SFT method; available SFT methods: AMXBF16_SFT"),
        (SFT, "nonsense", "nonsense is unknown; available SFT methods: AMXBF16_SFT"),
        (
            INFERENCE,
            "AMXINT8_SFT",
            "no inference method; available inference methods: ",
        ),
    ],
)
def test_a_method_that_is_not_there_is_refused_with_those_that_are(script, method, message):
    result = run(script, "--method", method)
    assert result.returncode == 2
    assert message in result.stderr


BREAKAGES = {
    "forward": """
from kt_kernel import KTMoEWrapper as W
right = W.forward_sft
W.forward_sft = lambda *a, **k: right(*a, **k) * 1.06
""",
    "backward": """
from kt_kernel import KTMoEWrapper as W
right = W.backward
def backward(self, *a, **k):
    grad_input, loras, *rest = right(self, *a, **k)
    loras["grad_up_lora_b"][0] = 0
    return grad_input, loras, *rest
W.backward = backward
""",
    "training": """
from kt_kernel import KTMoEWrapper as W
right = W.backward
def backward(self, *a, **k):
    grad_input, loras = right(self, *a, **k)
    return grad_input, {name: -grad for name, grad in loras.items()}
W.backward = backward
""",
    "perf": """
import time
from kt_kernel import KTMoEWrapper as W
right = W.forward_sft
def forward_sft(*a, **k):
    time.sleep(0.5)
    return right(*a, **k)
W.forward_sft = forward_sft
""",
}


@pytest.mark.parametrize("mode", BREAKAGES)
def test_a_fault_fails_its_mode(mode):
    options = ["--compare-native"] if mode == "perf" else ["--steps", "5"]
    result = run_with(BREAKAGES[mode], SFT, "--mode", mode, *options, *SMALL)
    assert result.returncode == 1, result.stderr
    assert "FAILED" in result.stdout
    assert "Traceback" not in result.stderr


def test_a_fault_fails_the_inference_script():
    patch = "from kt_kernel import KTMoEWrapper as W; W.forward = lambda *a: a[1] * float('nan')"
    result = run_with(patch, INFERENCE, *SMALL)
    assert result.returncode == 1, result.stderr
    assert "=== FAILED ===" in result.stdout


def test_the_tiny_model_learns():
    result = run("examples/train_tiny.py")
    assert result.returncode == 0, result.stderr
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", result.stdout)]
    assert losses[0] > 4 > 1 > losses[-1]


def test_the_build_script_from_a_copy_of_the_tree(tmp_path):
    if shutil.which("cmake", path=os.environ["PATH"]) is None:
        pytest.skip("cmake is missing")
    for name in ("CMakeLists.txt", "csrc", "examples", "kt_kernel", "scripts"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("*.so"))
        else:
            shutil.copy(source, tmp_path)
    result = subprocess.run(
        ["bash", str(tmp_path / "scripts" / "test_sft_wrapper.sh"), *SMALL],
        cwd="/",
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert list((tmp_path / "build").glob("kt_kernel_ext*.so"))
    assert result.stdout.endswith("All tests passed!\n")
