"""The scripts of examples/ and scripts/, run as a user runs them, on small sizes."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kt_kernel.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
SFT, INFERENCE = "examples/test_moe_sft_wrapper.py", "examples/test_moe_amx.py"
SMALL = shlex.split(
    "--expert-num 8 --hidden-size 256 --intermediate-size 128 --top-k 4 --qlen 16 "
    "--iterations 2 --warmup 1 --repeat 3"
)
LATENCY = r"^{} +(\S+) ms mean +(\S+) ms median +(\S+) tokens/s$"


def run(*command, **environment):
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def run_with(patch, script, *options):
    """The script after `patch`, a piece of Python that breaks something."""
    program = (
        f"import runpy, sys; sys.path.insert(0, 'examples'); sys.argv = {[script, *options]!r}\n"
        f"{patch}\nrunpy.run_path({script!r}, run_name='__main__')"
    )
    return run("-c", program)


def sections(output):
    return re.findall(r"^=== Testing (.*) \(\w+\) ===$", output, re.MULTILINE)


def check_latency(output, name, qlen):
    found = re.search(LATENCY.format(re.escape(name)), output, re.MULTILINE)
    mean, median, rate = map(float, found.groups())
    assert 0 < median < 10 * mean
    assert rate == pytest.approx(qlen / mean * 1e3, rel=0.01, abs=0.1)


def test_all_modes_of_the_sft_script():
    result = run(SFT, "--mode", "all", *SMALL)
    assert result.returncode == 0, result.stderr
    assert sections(result.stdout) == [
        "forward accuracy",
        "backward accuracy",
        "training loop",
        "performance",
    ]
    for name in ("output", "grad_input", "grad_weights", "grad_gate_lora_a", "grad_down_lora_b"):
        assert re.search(rf"^{name} .*passed$", result.stdout, re.MULTILINE), name
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


def test_fewer_experts_where_memory_is_short_said_in_one_line():
    patch = "import memory; memory.available_memory = lambda: 0.56e9"
    small = SMALL[2:]
    result = run_with(patch, SFT, "--mode", "forward", *small)
    assert result.returncode == 0, result.stderr
    line = result.stdout.splitlines()[0]
    found = re.fullmatch(
        r"256 experts need (\S+) GB and 0\.6 GB are free: "
        r"running with (\d+) experts \(--expert-num to choose\)",
        line,
    )
    assert found, line
    assert 4 <= int(found[2]) < 256


def test_too_few_experts_for_top_k_is_an_error():
    patch = "import memory; memory.available_memory = lambda: 0.5e9"
    result = run_with(patch, SFT, "--mode", "forward", *SMALL[2:])
    assert result.returncode == 1
    assert re.search(r"error: \d experts fit in the 0.5 GB .* --top-k 4 needs", result.stderr)
    result = run(SFT, "--expert-num", "3", *SMALL[2:])
    assert "error: --expert-num 3 is less than --top-k 4" in result.stderr


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import memory

    return memory


def test_as_many_experts_as_fit(memory):
    assert memory.experts_that_fit(free=100e9, per_expert=90e6, rest=1e9) == 256
    assert memory.experts_that_fit(free=10e9, per_expert=90e6, rest=1e9) == 96  # 8.7 / .09
    assert memory.experts_that_fit(free=1e9, per_expert=90e6, rest=1e9) == 0


def write_group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_memory_limits_of_control_groups_are_seen(memory, tmp_path):
    write_group(
        tmp_path / "a",
        memory__max="5000\n",
        memory__current="3000\n",
        memory__stat="anon 1\ninactive_file 1000\n",
    )
    write_group(tmp_path / "a" / "b", memory__max="max\n", memory__current="7\n", memory__stat="")
    assert list(memory.left_in_groups("0::/a/b\n", tmp_path)) == [3000]
    assert list(memory.left_in_groups("0::/\n", tmp_path)) == []
    write_group(
        tmp_path / "memory",
        memory__limit_in_bytes="900\n",
        memory__usage_in_bytes="500\n",
        memory__stat="total_inactive_file 100\n",
    )
    groups = "5:cpu,cpuacct:/x\n3:memory:/not/mounted/here\n"
    assert list(memory.left_in_groups(groups, tmp_path)) == [500]


def test_available_memory_is_what_the_system_says(memory):
    assert 0 < memory.available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


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
