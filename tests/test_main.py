"""Importing, finding the extension, choosing the instruction set, and `python -m kt_kernel`.

Each test starts fresh interpreters, for these things happen once per process. `-S` keeps installed
packages out where a test brings its own.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kt_kernel
from kt_kernel._native import ext
from kt_kernel.methods import METHODS

PACKAGE = Path(kt_kernel.__file__).parent
SUPPORTED = [isa["name"] for isa in ext.isas() if isa["supported"]]
UNSUPPORTED = [isa["name"] for isa in ext.isas() if not isa["supported"]]


def python(*arguments, cwd=None, path=None, **environment):
    """Runs a fresh interpreter, without KT_KERNEL_ISA and PYTHONPATH unless given here."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("KT_KERNEL_ISA", "PYTHONPATH")
    }
    if path is None:
        path = PACKAGE.parent
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd or "/",  # for the current folder comes first on Python's path
        env={**inherited, "PYTHONPATH": str(path), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def source_only(folder):
    """A copy of the package without its extension."""
    shutil.copytree(PACKAGE, folder / "kt_kernel", ignore=shutil.ignore_patterns("*.so", "__py*"))
    return folder


def test_products_of_16_bits_come_behind_vbmi_on_intel():
    """There they take twice as long as FMA's (csrc/isa/avx512_bf16.h)."""
    names = [isa["name"] for isa in ext.isas()]
    found = re.search(r"vendor_id\s*: (\S+)", Path("/proc/cpuinfo").read_text())
    order = ["avx512_bf16", "avx512_vbmi"]
    if found and found[1] == "GenuineIntel":
        order.reverse()
    known = ["amx", *order, "avx512_vnni", "avx512_f32", "avx2", "portable"]
    assert [name for name in names if name in known] == known


def test_the_screen():
    done = python("-m", "kt_kernel")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert f"kt_kernel {kt_kernel.__version__}" in lines[0]
    assert f"{ext.cpu_count()} cores" in done.stdout
    for isa in ext.isas():
        (line,) = [line for line in lines if line[2:].split(" ")[0] == isa["name"]]
        assert line.startswith("*") == (isa["name"] == SUPPORTED[0])
        assert isa["supported"] or "not supported: " in line
        assert isa["why"] in " ".join(done.stdout.split())
    for name in METHODS:
        assert name in done.stdout


def test_the_screen_says_what_is_wrong_in_one_line():
    done = python("-m", "kt_kernel", KT_KERNEL_ISA="mmx")
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "KT_KERNEL_ISA is 'mmx'" in done.stderr


def test_the_screen_takes_no_arguments():
    assert python("-m", "kt_kernel", "--verbose").returncode == 2


def test_importing_loads_neither_torch_nor_the_extension():
    code = "import sys, kt_kernel; print(sorted({'torch', 'numpy', 'kt_kernel_ext', "
    code += "'kt_kernel.kt_kernel_ext'} & set(sys.modules)), kt_kernel.__version__)"
    assert python("-c", code).stdout.split() == ["[]", kt_kernel.__version__]


def test_an_unknown_name_in_the_package():
    done = python("-c", "import kt_kernel; kt_kernel.KTMoeWrapper")
    assert "AttributeError: module 'kt_kernel' has no attribute 'KTMoeWrapper'" in done.stderr


# ---- KT_KERNEL_ISA ----

SHOW_ISA = "import kt_kernel; print(kt_kernel.isa())"
RUN = """
import torch
from kt_kernel import KTMoEWrapper
w = KTMoEWrapper(0, 1, 1, 4, 4, method="BF16")
w.load_weights_from_tensors(*torch.ones(3, 1, 4, 4))
w.forward(torch.ones(1, 4), torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1))
print(w._layer.isa)
"""


@pytest.mark.parametrize("isa", SUPPORTED)
def test_a_forced_instruction_set_is_the_one_that_runs(isa):
    assert python("-c", SHOW_ISA, KT_KERNEL_ISA=isa).stdout.strip() == isa
    assert python("-c", RUN, KT_KERNEL_ISA=isa).stdout.strip() == isa
    screen = python("-m", "kt_kernel", KT_KERNEL_ISA=isa).stdout
    assert f"* {isa}" in screen
    assert f"KT_KERNEL_ISA={isa}" in screen


@pytest.mark.parametrize("family", sorted({isa["family"] for isa in ext.isas()}))
def test_a_family_means_its_best_member_here(family):
    members = [isa["name"] for isa in ext.isas() if isa["family"] == family]
    usable = [name for name in members if name in SUPPORTED]
    done = python("-c", SHOW_ISA, KT_KERNEL_ISA=family)
    if usable:
        assert done.stdout.strip() == usable[0]
    else:
        assert f"ImportError: KT_KERNEL_ISA is '{family}'" in done.stderr


def test_the_default_is_the_best():
    assert python("-c", SHOW_ISA).stdout.strip() == SUPPORTED[0]
    assert python("-c", SHOW_ISA, KT_KERNEL_ISA="").stdout.strip() == SUPPORTED[0]


@pytest.mark.parametrize("isa", ["sse9", "AVX2", " avx2", *UNSUPPORTED])
def test_an_instruction_set_that_cannot_be_had(isa):
    done = python("-c", SHOW_ISA, KT_KERNEL_ISA=isa)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: KT_KERNEL_ISA is '{isa}'")


# ---- where the extension is found ----

SHOW_FILE = "from kt_kernel._native import ext; print(ext.__file__, ext.isa())"


def test_on_pythonpath_before_the_package(tmp_path):
    build = tmp_path / "build"
    build.mkdir()
    copy = shutil.copy(ext.__file__, build)
    code = SHOW_FILE + "; import kt_kernel_ext, kt_kernel.kt_kernel_ext as inner; "
    code += "assert inner is ext is kt_kernel_ext"
    done = python("-S", "-c", code, path=f"{build}{os.pathsep}{PACKAGE.parent}")
    assert done.stdout.split() == [str(copy), ext.isa()], done.stderr


def test_in_the_package(tmp_path):
    source_only(tmp_path)
    copy = shutil.copy(ext.__file__, tmp_path / "kt_kernel")
    code = SHOW_FILE + "; import kt_kernel.kt_kernel_ext as inner; assert inner is ext"
    done = python("-S", "-c", code, path=tmp_path)
    assert done.stdout.split() == [str(copy), ext.isa()], done.stderr


def test_installed_while_the_source_tree_hides_the_package(tmp_path):
    tree = source_only(tmp_path / "tree")
    installed = source_only(tmp_path / "installed")
    copy = shutil.copy(ext.__file__, installed / "kt_kernel")
    code = SHOW_FILE + "; import kt_kernel; print(kt_kernel.__file__)"
    done = python("-S", "-c", code, cwd=tree, path=installed)
    file, isa, package = done.stdout.split()
    assert (file, isa) == (str(copy), ext.isa())
    assert Path(package).parent == tree / "kt_kernel"


def test_nowhere(tmp_path):
    source_only(tmp_path)
    (tmp_path / "kt_kernel_ext").mkdir()  # a folder is no module
    done = python("-S", "-m", "kt_kernel", path=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "is not built" in line
    assert "pip install ." in line
    assert "cmake -S . -B build" in line


@pytest.mark.parametrize(
    ("version", "stale"), [("0.0.1", "the package"), ("99.0.0", "the extension")]
)
def test_extension_and_package_of_different_versions(tmp_path, version, stale):
    source_only(tmp_path)
    (tmp_path / "kt_kernel" / "_version.py").write_text(f'__version__ = "{version}"\n')
    copy = shutil.copy(ext.__file__, tmp_path / "kt_kernel")
    done = python("-S", "-m", "kt_kernel", path=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert str(copy) in line
    assert f"{stale} is stale" in line
    assert version in line
    assert kt_kernel.__version__ in line


def test_a_foreign_extension_of_the_same_name(tmp_path):
    (tmp_path / "kt_kernel_ext.py").write_text("")
    done = python("-m", "kt_kernel", path=f"{tmp_path}{os.pathsep}{PACKAGE.parent}")
    assert done.returncode == 1
    assert "version unknown" in done.stderr
