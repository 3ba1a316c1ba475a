"""Builds a commit into a folder of its own, once: `folder` goes on PYTHONPATH.

The same virtual environment serves every build: its pinned tools build, its PyTorch runs. The
extension is named by all that it is built from, so that commits which differ in other things share
it; beside it lies each commit's Python part. The objects of the last build are kept: the next one
compiles only what differs.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tools.build import SOURCES

ROOT = Path(__file__).resolve().parent.parent.parent
EXTENSION = "kt_kernel/kt_kernel_ext"
FLAGS = ("CXX", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CMAKE_ARGS")  # that CMake or setup.py reads
TOOLS = ("setuptools", "cmake", "ninja", "pybind11")
# PyTorch's threads go to sleep when an operator ends. Those of the other side would otherwise look
# for work on the cores of who is measured.
SLEEPS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


class BuildError(RuntimeError):
    """Why a commit could not be built; one line, and the last lines of the log."""


@dataclass(frozen=True)
class Build:
    """A commit's package, ready to be imported from `package`."""

    commit: str
    package: Path

    @property
    def extension(self) -> Path:
        """The native extension."""
        (path,) = self.package.glob(f"{EXTENSION}*.so")
        return path

    def environment(self) -> dict[str, str]:
        """For a Python that is to import this package, and this tree's benchmarks and tools."""
        paths = f"{self.package}{os.pathsep}{ROOT}"
        return {**os.environ, **SLEEPS, "PYTHONPATH": paths}


def git(repo: Path, *arguments: str, **environment: str) -> str:
    """A git command's output; BuildError where it fails."""
    command, env = ["git", *arguments], {**os.environ, **environment}
    done = subprocess.run(command, cwd=repo, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def digest(*parts: str) -> str:
    """A name for what has these parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def toolchain() -> str:
    """What identifies who builds: the compiler, its flags, the tools and Python."""
    compiler = [os.environ.get("CXX", "c++"), "--version"]
    told = subprocess.run(compiler, capture_output=True, text=True, check=False).stdout
    flags = [f"{name}={os.environ.get(name, '')}" for name in FLAGS]
    return digest(told, sys.version, *flags, *(f"{name}=={version(name)}" for name in TOOLS))


def key(repo: Path, commit: str) -> str:
    """What identifies the extension: its sources, and who builds."""
    return digest(git(repo, "ls-tree", commit, *SOURCES), toolchain())


def build(repo: Path, commit: str, cache: Path) -> Build:
    """The commit's Build, made if it is not in the cache; BuildError where that fails."""
    extension = cache / key(repo, commit)
    tree = cache / f"tree-{toolchain()}"
    whole(extension, lambda scratch: make_extension(repo, commit, tree, scratch))
    package = extension / git(repo, "rev-parse", f"{commit}:kt_kernel")
    whole(package, lambda scratch: make_package(repo, commit, extension, scratch))
    return Build(commit, package)


def whole(folder: Path, make: Callable[[Path], Path]) -> None:
    """Have the folder made where it is missing: whole or not at all."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="new-") as scratch:
            make(Path(scratch)).rename(folder)


@contextmanager
def checked_out(repo: Path, commit: str, tree: Path) -> Iterator[None]:
    """Have the commit in the tree, which is ours alone for that time.

    Of earlier builds it keeps the objects. git writes only the files that differ, and Ninja
    compiles what includes those, or has another command. CMake's cache goes: it would hold on to
    another commit's defaults.
    """
    tree.mkdir(parents=True, exist_ok=True)
    with tree.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        of_tree = {
            "GIT_DIR": git(repo, "rev-parse", "--absolute-git-dir"),
            "GIT_WORK_TREE": str(tree),
            "GIT_INDEX_FILE": str(tree.with_suffix(".index")),
        }
        git(tree, "read-tree", "--reset", "-u", commit, **of_tree)
        git(tree, "clean", "-ffdxq", "--exclude=build/temp.*", **of_tree)
        for stale in tree.glob("build/temp.*/CMakeCache.txt"):
            stale.unlink()
        yield


def make_extension(repo: Path, commit: str, tree: Path, scratch: Path) -> Path:
    """A folder with the extension, out of a wheel that is built in the tree."""
    wheels, done = scratch / "wheels", scratch / "done"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    command = [*pip, "wheel", "-v", "--no-deps", "--no-build-isolation", "-w", wheels, tree]
    with checked_out(repo, commit, tree):
        run(command, f"building {commit[:10]} failed", tree)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        # Its stub, kt_kernel_ext.pyi, is in wheels of later setuptools as well.
        names = [n for n in file.namelist() if n.startswith(EXTENSION) and n.endswith(".so")]
        if len(names) != 1:
            raise BuildError(f"the wheel of {commit[:10]} has {len(names)} extensions, wanted one")
        file.extract(names[0], done)
    return done


def make_package(repo: Path, commit: str, extension: Path, scratch: Path) -> Path:
    """The commit's Python files with the extension among them."""
    package = scratch / "package"
    package.mkdir()
    with subprocess.Popen(
        ["git", "archive", commit, "kt_kernel"], cwd=repo, stdout=subprocess.PIPE
    ) as archive:
        subprocess.run(["tar", "x", "-C", package], stdin=archive.stdout, check=True)
    if archive.returncode:
        raise BuildError(f"git archive {commit} failed")
    (built,) = extension.glob(f"{EXTENSION}*.so")
    shutil.copy(built, package / "kt_kernel")
    return package


def run(command: list, failed: str, source: Path) -> None:
    """A step of the build; BuildError with the lines that say what was wrong in the sources."""
    done = subprocess.run(
        command,
        cwd=source.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = done.stdout.replace(f"{source}/", "")
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        errors = [line for line in lines if "error:" in line.lower()]
        raise BuildError("\n".join([failed, *(errors or lines[-5:])[:5]]))
