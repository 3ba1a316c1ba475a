"""What a review builds: once for each content, whole or not at all, the same bytes anywhere."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.review import builds

ROOT = Path(__file__).resolve().parent.parent
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "kt-kernel-sft"
version = "1"
[tool.setuptools]
packages = ["kt_kernel"]
package-data = { kt_kernel = ["*.so", "*.pyi"] }
"""
SETUP = """
from pathlib import Path
from setuptools import setup
Path("kt_kernel/kt_kernel_ext.so").write_text(Path("csrc/ext.cpp").read_text())
setup()
"""


class Repository:
    """A package of one file, and an extension that is its source."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.git("init", "-q", "-b", "main")
        self.write("pyproject.toml", PROJECT)
        self.write("setup.py", SETUP)
        self.write("csrc/ext.cpp", "1")
        self.write("kt_kernel/kt_kernel_ext.pyi", "")
        self.first = self.commit("kt_kernel/__init__.py", "VALUE = 1\n")

    def git(self, *arguments):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
        return subprocess.run(
            command, cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    def write(self, path, text):
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    def commit(self, path, text):
        self.write(path, text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", path)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "repository")


def test_a_commit_is_built_once_for_all_that_has_its_sources(repository, tmp_path, monkeypatch):
    repo, cache = repository.folder, tmp_path / "cache"
    first = builds.build(repo, repository.first, cache)
    assert first.extension.read_text() == "1"
    assert not list(tmp_path.rglob("*.whl"))
    docs = repository.commit("docs/new.md", "new")
    python = repository.commit("kt_kernel/__init__.py", "VALUE = 2\n")
    sources = repository.commit("csrc/ext.cpp", "2")
    with monkeypatch.context() as patch:
        patch.setattr(builds, "make_extension", lambda *_: pytest.fail("built again"))
        assert builds.build(repo, docs, cache).package == first.package
        second = builds.build(repo, python, cache)
    assert second.extension.read_text() == "1"
    assert second.package != first.package
    assert builds.build(repo, sources, cache).extension.read_text() == "2"
    monkeypatch.setenv("CXXFLAGS", "-O1")
    assert builds.key(repo, docs) != first.package.parent.name


def test_a_build_that_fails_says_why_and_leaves_nothing(repository, tmp_path):
    broken = repository.commit("pyproject.toml", "[project")
    with pytest.raises(builds.BuildError) as caught:
        builds.build(repository.folder, broken, tmp_path / "cache")
    lines = str(caught.value).splitlines()
    assert lines[0] == f"building {broken[:10]} failed"
    assert 1 < len(lines) <= 6
    assert any("error" in line.lower() for line in lines[1:])
    tree = f"tree-{builds.toolchain()}"
    left = {path.name for path in (tmp_path / "cache").iterdir()}
    assert left == {tree, f"{tree}.index", f"{tree}.lock"}


def test_a_commit_that_is_none(repository, tmp_path):
    with pytest.raises(builds.BuildError, match="git ls-tree"):
        builds.build(repository.folder, "nowhere", tmp_path / "cache")


def test_a_wheel_without_an_extension(repository, tmp_path):
    builds.build(repository.folder, repository.first, tmp_path / "cache")
    plain = repository.commit("setup.py", "from setuptools import setup\nsetup()\n")
    with pytest.raises(builds.BuildError, match="has 0 extensions, wanted one"):
        builds.build(repository.folder, plain, tmp_path / "cache")


def test_what_a_python_of_a_build_imports(repository, tmp_path):
    changed = repository.commit("kt_kernel/__init__.py", "VALUE = 2\n")
    for commit, value in ((repository.first, "1"), (changed, "2")):
        build = builds.build(repository.folder, commit, tmp_path / "cache")
        assert build.package.parent.parent == tmp_path / "cache"
        code = "import kt_kernel, benchmarks; print(kt_kernel.VALUE, benchmarks.__file__)"
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env=build.environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == f"{value} {ROOT / 'benchmarks' / '__init__.py'}\n"


NATIVE = """
cmake_minimum_required(VERSION 3.25)
project(native CXX)
set(NATIVE_VALUE "1" CACHE STRING "")
add_library(kt_kernel_ext SHARED csrc/ext.cpp csrc/kept.cpp csrc/other.cpp)
target_compile_options(kt_kernel_ext PRIVATE "-ffile-prefix-map=${CMAKE_CURRENT_SOURCE_DIR}=.")
set_source_files_properties(csrc/ext.cpp PROPERTIES COMPILE_DEFINITIONS VALUE=${NATIVE_VALUE})
set_target_properties(kt_kernel_ext PROPERTIES PREFIX "")
"""


def test_a_build_compiles_what_differs_and_has_the_bytes_of_a_fresh_one(repository, tmp_path):
    """First a changed header and a file that is gone, then a changed default of CMake's."""
    repository.write("csrc/ext.h", "#define ADDED 1")
    repository.write("csrc/ext.cpp", '#include "ext.h"\nint ext() { return VALUE + ADDED; }')
    repository.write("csrc/kept.cpp", "int kept() { return 1; }")
    repository.write("csrc/other.cpp", "int other() { return 1; }")
    repository.write("setup.py", (ROOT / "setup.py").read_text())
    commits = [repository.commit("CMakeLists.txt", NATIVE)]
    repository.git("rm", "-q", "csrc/other.cpp")
    repository.write("csrc/ext.h", "#define ADDED 2")
    without = NATIVE.replace(" csrc/other.cpp", "")
    commits.append(repository.commit("CMakeLists.txt", without))
    changed = without.replace('NATIVE_VALUE "1"', 'NATIVE_VALUE "3"')
    commits.append(repository.commit("CMakeLists.txt", changed))
    compiled, contents = set(), []
    for commit in commits:
        build = builds.build(repository.folder, commit, tmp_path / "cache")
        contents.append(build.extension.read_bytes())
        (tree,) = (tmp_path / "cache").glob("tree-*/")
        (kept,) = tree.glob("build/temp.*/**/kept.cpp.o")
        compiled.add(kept.stat().st_mtime_ns)
    assert len(compiled) == 1
    assert len(set(contents)) == len(commits)
    assert not (tree / "csrc" / "other.cpp").exists()
    for commit, content in zip(commits[1:], contents[1:], strict=True):
        fresh = builds.build(repository.folder, commit, tmp_path / commit)
        assert content == fresh.extension.read_bytes()


OBJECTS = [f"CMakeFiles/kt_kernel_ext.dir/csrc/{name}.cpp.o" for name in ("routing", "dispatch")]


def test_the_same_sources_give_the_same_bytes_in_any_folder(tmp_path):
    """With debug information, which names folders; two files, as building all takes minutes."""
    found = []
    for folder in (tmp_path / "one", tmp_path / "another" / "folder"):
        for name in ("CMakeLists.txt", "csrc", "kt_kernel"):
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            folder.mkdir(parents=True, exist_ok=True)
            copy(source, folder / name)
        build = folder / "build"
        cmake = [sys.executable, "-m", "cmake"]
        options = ["-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}", "-DCMAKE_CXX_FLAGS=-g"]
        configure = [*cmake, "-S", folder, "-B", build, *options]
        subprocess.run(configure, check=True, capture_output=True)
        command = [*cmake, "--build", build, "--target", *OBJECTS]
        subprocess.run(command, check=True, capture_output=True)
        found.append([(build / name).read_bytes() for name in OBJECTS])
    assert found[0] == found[1]
    assert all(str(tmp_path).encode() not in content for content in found[0])
