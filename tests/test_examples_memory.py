"""How many experts the example scripts find room for."""

import os
import re

import pytest
from example_scripts import ROOT, SFT, SMALL, run, run_with


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


def test_the_fewer_bytes_a_method_takes_the_more_experts_fit():
    patch = "import memory; memory.available_memory = lambda: 0.7e9"
    small = [*SMALL[6:], "--hidden-size", "2048", "--intermediate-size", "1024", "--top-k", "2"]
    fit = []
    for method in ("AMXBF16_SFT", "AMXINT8_SFT", "AMXINT4_SFT"):
        result = run_with(patch, SFT, "--mode", "forward", "--method", method, *small)
        assert result.returncode == 0, result.stderr
        fit.append(int(re.search(r"running with (\d+) experts", result.stdout)[1]))
    # Beside their 12.6, 6.3 or 3.1 MB, in whole huge pages, experts have 1.8 MB for LoRA.
    assert fit[0] * 1.5 < fit[1]
    assert fit[1] * 1.2 < fit[2]


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
