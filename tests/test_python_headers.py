"""Python's headers for a Debian without python3-dev, from an apt-get that has a package at hand."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from cmake import CMAKE_BIN_DIR

from tools import environment, python_headers

SYSTEM = python_headers.SYSTEM
# Nothing can be downloaded before `update`, as where apt's lists were deleted.
APT_GET = """
case "$*" in
  *update) touch updated ;;
  *"download {package}") [ -e updated ] && cp {deb} . ;;
esac
"""
WITHOUT_HEADERS = (
    "import sysconfig; sysconfig.get_config_vars()"
    '.update(installed_base="/nowhere", installed_platbase="/nowhere")\n'
)
CMAKE_LISTS = """
cmake_minimum_required(VERSION 3.25)
project(p LANGUAGES CXX)
find_package(Python REQUIRED COMPONENTS Interpreter Development.Module)
Python_add_library(m MODULE m.cpp)
"""
BUILD = """
import subprocess, sys
cmake, source, build = sys.argv[1:]
python = f"-DPython_EXECUTABLE={sys.executable}"
subprocess.run([cmake, "-S", source, "-B", build, python], check=True)
subprocess.run([cmake, "--build", build], check=True)
"""


@pytest.fixture
def venv(tmp_path):
    """An environment whose Python knows of no headers."""
    folder = tmp_path / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = sysconfig.get_path("purelib", "venv", {"base": str(folder)})
    (Path(packages) / "without_headers.pth").write_text(WITHOUT_HEADERS)
    return folder


@pytest.fixture
def apt_get(tmp_path, monkeypatch):
    """A function that puts a script in apt-get's place."""

    def write(script):
        path = tmp_path / "bin" / "apt-get"
        path.parent.mkdir()
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")

    return write


@pytest.fixture
def debian(tmp_path, apt_get):
    """A function that makes Debian's package of the folder that it is given; apt-get brings it."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("dpkg-deb is missing")

    def make(headers):
        tree = tmp_path / "tree"
        folder = tree / SYSTEM.relative_to("/")
        shutil.copytree(headers, folder)
        of_machine = folder.parent / "some-linux-gnu" / SYSTEM.name / "pyconfig.h"
        of_machine.parent.mkdir(parents=True)
        (folder / "pyconfig.h").rename(of_machine)
        (folder / "pyconfig.h").write_text("#include <some-linux-gnu/pyconfig.h>\n")
        (tree / "DEBIAN").mkdir()
        control = "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: m\nDescription: d\n"
        (tree / "DEBIAN" / "control").write_text(control)
        deb = tmp_path / "p.deb"
        subprocess.run(["dpkg-deb", "-Znone", "-b", tree, deb], check=True, capture_output=True)
        apt_get(APT_GET.format(package=python_headers.PACKAGE, deb=deb))

    return make


def build(venv, folder):
    """Build a module with Python.h by a CMake that the environment's Python starts."""
    (folder / "CMakeLists.txt").write_text(CMAKE_LISTS)
    (folder / "m.cpp").write_text("#include <Python.h>\n")
    command = [venv / "bin" / "python", "-c", BUILD, Path(CMAKE_BIN_DIR) / "cmake", folder]
    return subprocess.run([*command, folder / "build"], capture_output=True, text=True, check=False)


def test_what_the_environments_python_starts_builds_with_them(venv, debian, monkeypatch, tmp_path):
    monkeypatch.delenv("CMAKE_INCLUDE_PATH", raising=False)
    here = environment.VENV / "include" / SYSTEM.name
    debian(SYSTEM if SYSTEM.exists() else here)
    monkeypatch.setattr(python_headers, "SYSTEM", Path("/nowhere") / SYSTEM.name)
    assert not python_headers.present(venv)
    before = build(venv, tmp_path)
    assert "missing: Python_INCLUDE_DIRS" in before.stderr, before
    monkeypatch.setattr(python_headers, "SYSTEM", SYSTEM)
    python_headers.fetch(venv)
    assert python_headers.present(venv)
    after = build(venv, tmp_path)
    assert after.returncode == 0, after
    assert {path.name for path in venv.iterdir()} <= {
        "bin",
        "include",
        "lib",
        "lib64",
        "pyvenv.cfg",
    }


def test_a_package_of_another_python_is_refused(venv, debian, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "pyconfig.h").write_text("")
    debian(tmp_path / "other")
    with pytest.raises(SystemExit, match=r"apt-get install python3-dev\n.* does not bring /"):
        python_headers.fetch(venv)
    assert not (venv / "include" / SYSTEM.name / "Python.h").exists()


def test_what_apt_get_said_is_told(venv, apt_get):
    apt_get("echo E: no network >&2; exit 100")
    with pytest.raises(SystemExit, match=r"apt-get install python3-dev\n.*: E: no network$"):
        python_headers.fetch(venv)
