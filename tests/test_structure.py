"""tools/check_structure.py finds each fault that it is there to find, and none in this tree."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kt_kernel._native import ext
from tools import check_structure

ROOT = check_structure.ROOT


@pytest.fixture
def tree(tmp_path):
    """A copy of csrc to plant faults in."""
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    return tmp_path


def plant(path, line):
    path.write_text(path.read_text() + line + "\n")


def test_this_tree_is_clean(tree):
    rules = check_structure.foreign_names, check_structure.forbidden_calls
    assert [fault for rule in rules for fault in rule(tree)] == []
    assert list(check_structure.long_files(ROOT)) == []


def test_what_runs_here_has_no_avx_that_the_linker_may_share():
    assert list(check_structure.shared_avx(Path(ext.__file__))) == []


@pytest.mark.parametrize(
    ("file", "line", "name"),
    [
        ("ops/gemm.h", "inline bool special = format == BF16::kName;", "BF16"),
        ("ops/swiglu.h", 'constexpr const char* kFormat = "bf16";', "bf16"),
        ("ops/pack_a.h", '#include "isa/avx2.h"', "avx2"),
        ("ops/gemm.h", "if constexpr (I::is_AVX512) prefetch();", "AVX512"),
        ("ops/gemm.h", "_mm_sfence();", "_mm_sfence"),
        ("ops/gemm.h", "_tile_release();", "_tile_release"),
        ("formats/bf16.h", "template <> struct Tile<Portable> {};", "Portable"),
        ("formats/bf16.h", "static __m256i shuffled(__m256i v);", "__m256i"),
    ],
)
def test_foreign_names_are_found(tree, file, line, name):
    plant(tree / "csrc" / file, line)
    (fault,) = check_structure.foreign_names(tree)
    assert f"csrc/{file}:" in fault
    assert fault.endswith(f"names {name}")


def test_a_new_format_and_a_new_instruction_set_are_names_at_once(tree):
    registry = tree / "csrc" / "registry.h"
    text = registry.read_text().replace(
        "#define KT_FORMATS(X) X(BF16)", "#define KT_FORMATS(X) \\\n  X(BF16) \\\n  X(MXFP4)"
    )
    registry.write_text(
        text.replace("#define KT_ISAS(X)", '#define KT_ISAS(X) X(apx, "apx", "apx") ')
    )
    (tree / "csrc" / "formats" / "nf4.h").write_text("")
    for line in ("struct Mxfp4Tail {};", "struct Nf4Tail {};", "void apx_configure();"):
        plant(tree / "csrc" / "ops" / "gemm.h", line)
    assert len(list(check_structure.foreign_names(tree))) == 3


@pytest.mark.parametrize(
    "line",
    [
        "// as BF16 does on AVX2, unlike _mm256_add_ps",
        "/* bf16:\n   avx2 */",
        "std::int8_t code = 0; const DType d = DType::int8;",
    ],
)
def test_comments_and_types_are_no_names(tree, line):
    (tree / "csrc" / "formats" / "int8.h").write_text("")
    plant(tree / "csrc" / "ops" / "gemm.h", line)
    assert list(check_structure.foreign_names(tree)) == []


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ('std::printf("%d", n);', "printf"),
        ('fprintf(stderr, "n");', "fprintf"),
        ("std::cout << n;", "cout"),
        ("std::cerr << n;", "cerr"),
        ("std::abort();", "abort"),
        ("std::exit(1);", "exit"),
        ('const char* v = std::getenv("KT");', "getenv"),
    ],
)
@pytest.mark.parametrize("file", ["layer.cpp", "isa/avx2.h", "runtime/threads.cpp"])
def test_forbidden_calls_are_found(tree, file, line, call):
    plant(tree / "csrc" / file, line)
    (fault,) = check_structure.forbidden_calls(tree)
    assert f"csrc/{file}:" in fault
    assert f" {call}:" in fault


def test_dispatch_reads_the_environment_and_does_not_print(tree):
    dispatch = tree / "csrc" / "dispatch.cpp"
    assert "getenv" in dispatch.read_text()
    plant(dispatch, 'std::puts("chosen");')
    (fault,) = check_structure.forbidden_calls(tree)
    assert "puts" in fault


@pytest.mark.parametrize(("lines", "faults"), [(400, 0), (401, 1)])
@pytest.mark.parametrize("file", ["csrc/new.cpp", "tests/test_new.py", ".ci/run"])
def test_long_files_are_found(tree, file, lines, faults):
    path = tree / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n" * lines)
    assert len(list(check_structure.long_files(tree))) == faults


SORT = """
#include <algorithm>
void ascending(float* p, int n) { std::sort(p, p + n); }
"""
REGION = """
#pragma GCC push_options
#pragma GCC target("avx2")
namespace {
__attribute__((noinline)) void add(float* a) { for (int i = 0; i < 64; ++i) a[i] += 1; }
}
#pragma GCC pop_options
void start(float* a) { add(a); }
"""


def compiled(source, folder, *options):
    (folder / "code.cpp").write_text(source)
    objects = folder / "code.o"
    command = ["g++", "-O3", *options, "-c", folder / "code.cpp", "-o", objects]
    subprocess.run(command, check=True)
    return objects


def test_weak_functions_with_avx_are_found(tmp_path):
    """A whole file compiled for AVX2, the mistake that target regions avoid."""
    faults = list(check_structure.shared_avx(compiled(SORT, tmp_path, "-mavx2")))
    assert any("std::" in fault for fault in faults)
    assert any(" ascending(" in fault for fault in faults)


def test_a_target_region_in_an_anonymous_namespace_is_fine(tmp_path):
    assert list(check_structure.shared_avx(compiled(REGION, tmp_path))) == []


def test_baseline_code_alone_is_no_proof(tmp_path):
    (fault,) = check_structure.shared_avx(compiled(SORT, tmp_path))
    assert "no AVX code" in fault


TARGET = re.compile(r'KT_TARGET_BEGIN\(\s*"([^"]*)"\)')


@pytest.mark.parametrize(
    "source",
    [path for path in sorted(ROOT.glob("csrc/isa/*.cpp")) if TARGET.search(path.read_text())],
    ids=lambda path: path.stem,
)
def test_compilers_may_use_no_more_than_the_cpu_is_asked_for(source):
    """One that no kernel names may yet be used: clang made VPDPWSSD of VPMADDWD and VPADDD."""
    asked = {name.replace("-", "") for name in TARGET.search(source.read_text())[1].split(",")}
    features = (ROOT / "csrc" / "cpu_features.cpp").read_text()
    known = {
        word: {name.lower().replace("_", "")}
        for word, name in re.findall(r'constexpr Feature (k\w+)\{"(\w+)"', features)
    }

    def named(text):
        return set().union(*(known.get(word, set()) for word in re.findall(r"\w+", text)))

    for name, value in re.findall(r"const Features (\w+)(.*?);", features):
        known[name] = named(value)
    checked = named(re.search(rf'\{{"{source.stem}", \w+, (.*)\}},', features)[1])
    if "avx512f" in checked:
        checked |= {"avx2", "fma"}  # every such CPU has them
    assert asked - checked == set()
