"""Builds a commit into a folder of its own, once: `folder/package` goes on PYTHONPATH.

The same virtual environment serves every build: its pinned tools build, its PyTorch runs. A folder
is named by all that the build depends on, so that commits which differ in other things share one.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tools.build import SOURCES

ROOT = Path(__file__).resolve().parent.parent.parent
INPUTS = [*SOURCES, "kt_kernel", "README.md", "LICENSE"]  # the last two are in a wheel's metadata
FLAGS = ("CXX", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CMAKE_ARGS")  # that CMake or setup.py reads
TOOLS = ("setuptools", "cmake", "ninja", "pybind11")


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
        (path,) = self.package.glob("kt_kernel/kt_kernel_ext*.so")
        return path

    def environment(self) -> dict[str, str]:
        """For a Python that is to import this package, and this tree's benchmarks and tools."""
        return {**os.environ, "PYTHONPATH": f"{self.package}{os.pathsep}{ROOT}"}


def git(repo: Path, *arguments: str) -> str:
    """A git command's output; BuildError where it fails."""
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def key(repo: Path, commit: str) -> str:
    """What identifies the build: the sources, the compiler, its flags, the tools and Python."""
    compiler = [os.environ.get("CXX", "c++"), "--version"]
    told = subprocess.run(compiler, capture_output=True, text=True, check=False).stdout
    parts = [
        git(repo, "ls-tree", commit, *INPUTS),
        told,
        sys.version,
        *(f"{name}={os.environ.get(name, '')}" for name in FLAGS),
        *(f"{name}=={version(name)}" for name in TOOLS),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def build(repo: Path, commit: str, cache: Path) -> Build:
    """The commit's Build, made if it is not in the cache; BuildError where that fails."""
    folder = cache / key(repo, commit)
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="new-") as scratch:
            done = make(repo, commit, Path(scratch))
            # Whole or not at all: what was interrupted is built again.
            done.rename(folder)
    return Build(commit, folder / "package")


def make(repo: Path, commit: str, scratch: Path) -> Path:
    """A folder in `scratch` with the package."""
    source, wheels, done = scratch / "source", scratch / "wheels", scratch / "done"
    source.mkdir()
    archive = subprocess.Popen(["git", "archive", commit], cwd=repo, stdout=subprocess.PIPE)
    subprocess.run(["tar", "x", "-C", source], stdin=archive.stdout, check=True)
    if archive.wait():
        raise BuildError(f"git archive {commit} failed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", "-v", "--no-deps", "--no-build-isolation", "-w", wheels, source]
    run(wheel, f"building {commit[:10]} failed", scratch)
    install = [*pip, "install", "--no-deps", "--target", done / "package", *wheels.glob("*.whl")]
    run(install, f"unpacking the wheel of {commit[:10]} failed", scratch)
    shutil.rmtree(source)
    return done


def run(command: list, failed: str, cwd: Path) -> None:
    """A step of the build; BuildError with the lines that say what was wrong."""
    done = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        errors = [line for line in lines if "error:" in line.lower()]
        raise BuildError("\n".join([failed, *(errors or lines[-5:])[:5]]))
