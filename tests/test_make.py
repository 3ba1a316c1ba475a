"""`make bench` in a fresh clone, as a newcomer runs it. Takes minutes: it sets up and builds."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import presets

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """HEAD alone, on main; what is not committed is not in it, as nobody else would have it."""
    folder = tmp_path_factory.mktemp("fresh") / "clone"
    git = ["git", "-c", "advice.detachedHead=false"]
    subprocess.run([*git, "clone", "-q", "--depth=1", f"file://{ROOT}", folder], check=True)
    subprocess.run([*git, "checkout", "-q", "-B", "main"], cwd=folder, check=True)
    return folder


def make(clone, target, **environment):
    """As from a shell; HOME is where asv keeps the machine's name."""
    ours = {"VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}  # of the `make test` around this
    inherited = {key: value for key, value in os.environ.items() if key not in ours}
    return subprocess.run(
        ["make", target],
        cwd=clone,
        # TMPDIR: the lock of what measures is its own, apart from this machine's.
        env={**inherited, "HOME": str(clone.parent), "TMPDIR": str(clone.parent), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_make_bench_measures_publishes_and_prints(clone):
    done = make(clone, "bench")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    table = done.stdout[done.stdout.index("\nsuite ") :]
    for suite in ("Forward", "Backward", "TrainingStep", "WrapperOverhead", "Roofline", "Memory"):
        for preset in ("quick-compute", "quick-memory"):
            for method in presets.SFT_METHODS:
                assert re.search(rf"^{suite} .* {method} +{preset} ", table, re.M), suite
    of_sft, of_inference = 11 * len(presets.SFT_METHODS), len(presets.INFERENCE_FORMATS)
    assert len(re.findall(r"^RelativeError ", table, re.M)) == 2 * (of_sft + of_inference)
    assert len(re.findall(r"^Import ", table, re.M)) == 2
    assert "failed" not in table
    assert not re.search(r"\bn/a\b", table)
    assert "without a commit before" in done.stdout
    index = json.loads((clone / ".asv" / "html" / "index.json").read_text())
    assert "forward.Forward.time_forward" in index["benchmarks"]
    assert ".asv/html" in done.stdout
    first_page = (clone / ".asv" / "html" / "index.html").read_text()
    assert 'class="method ' in first_page
    assert ">0 not measured<" in first_page
    assert (clone / ".asv" / "html" / "vendor" / "jquery.min.js").exists()
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True
    )
    assert status.stdout == "", "make bench leaves files that git does not ignore"


def test_a_second_set_up_installs_nothing(clone):
    done = subprocess.run(
        ["python3", "-m", "tools.environment", "bench"],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_machine_without_tools_gets_lines(clone, tmp_path):
    (tmp_path / "python3").symlink_to(sys.executable)
    for tool in ("make", "sh"):
        path = subprocess.run(["which", tool], capture_output=True, text=True, check=True)
        (tmp_path / tool).symlink_to(path.stdout.strip())
    done = make(clone, "bench", PATH=str(tmp_path))
    assert done.returncode != 0
    assert "g++ is missing: apt-get install g++" in done.stderr
    assert "git is missing: apt-get install git" in done.stderr
