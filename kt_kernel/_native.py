"""Finds and loads the native extension; `ext` is the module.

Three places, in this order: a top-level `kt_kernel_ext` (a plain CMake build on PYTHONPATH), the
package's own folder (installed, or built in place), and the `kt_kernel` folders along `sys.path`:
when Python runs in the root of the source tree, the tree hides the installed package, and the
extension lies in the latter.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from importlib.machinery import PathFinder
from types import ModuleType
from typing import TYPE_CHECKING

import kt_kernel

__all__ = ["ext"]

_NAME = "kt_kernel_ext"
_INNER = f"kt_kernel.{_NAME}"


def _load() -> ModuleType:
    top = PathFinder.find_spec(_NAME)
    if top is not None and top.has_location:  # a mere folder of that name has no location
        module = importlib.import_module(_NAME)
        # One process, one copy: its types and its threads are not to be had twice.
        return sys.modules.setdefault(_INNER, module)

    folders = [*kt_kernel.__path__, *(os.path.join(entry, "kt_kernel") for entry in sys.path)]
    spec = PathFinder.find_spec(_INNER, folders)
    if spec is None or spec.loader is None:
        raise ImportError(
            f"the native extension {_NAME} is not built for this Python. Build and install with "
            "`pip install .` in the source tree, or build with `cmake -S . -B build && cmake "
            "--build build` and put the build folder on PYTHONPATH.",
            name=_NAME,
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[_INNER] = module
    return module


def _check_version(module: ModuleType) -> None:
    theirs = str(getattr(module, "__version__", "unknown"))
    ours = kt_kernel.__version__
    if theirs == ours:
        return
    extension_is_older = _numbers(theirs) < _numbers(ours)
    remedy = "rebuild the extension" if extension_is_older else "install the package anew"
    raise ImportError(
        f"the extension {module.__file__} is version {theirs}, the package {kt_kernel.__file__} "
        f"is version {ours}: {'the extension' if extension_is_older else 'the package'} is stale, "
        f"{remedy} or take it off PYTHONPATH.",
        name=_NAME,
        path=module.__file__,
    )


def _numbers(version: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", version)]


if TYPE_CHECKING:
    from kt_kernel import kt_kernel_ext as ext
else:
    ext = _load()
    _check_version(ext)
