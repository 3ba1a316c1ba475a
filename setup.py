"""Builds the extension with CMake; everything else is in pyproject.toml."""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class CMakeExtension(Extension):
    """An extension whose sources CMakeLists.txt names."""

    def __init__(self, name: str) -> None:
        super().__init__(name, sources=[])


class CMakeBuild(build_ext):
    """Configures and builds with CMake and Ninja, into the place setuptools wants."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        cmake = [sys.executable, "-m", "cmake"]
        if subprocess.run([*cmake, "--version"], capture_output=True, check=False).returncode:
            cmake = ["cmake"]
        configure = [
            *cmake,
            "-S",
            str(Path(__file__).resolve().parent),
            "-B",
            str(build),
            "-G",
            "Ninja",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            *os.environ.get("CMAKE_ARGS", "").split(),
        ]
        subprocess.run(configure, check=True)
        subprocess.run([*cmake, "--build", str(build)], check=True)


setup(
    ext_modules=[CMakeExtension("kt_kernel.kt_kernel_ext")],
    cmdclass={"build_ext": CMakeBuild},
)
