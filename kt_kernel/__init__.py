"""A Mixture-of-Experts layer with LoRA adapters that trains on CPUs.

`KTMoEWrapper` is the layer, `KTMoELayer` the same as a `torch.nn.Module`; `quantize` and
`dequantize` round weights as it does. All are imported on first use, so that `import kt_kernel`
costs neither PyTorch nor the native extension.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .experts import KTMoEWrapper
    from .layer import KTMoELayer
    from .rounding import dequantize, quantize

__all__ = ["KTMoELayer", "KTMoEWrapper", "__version__", "dequantize", "isa", "quantize"]

_HOME = {
    "KTMoEWrapper": "experts",
    "KTMoELayer": "layer",
    "dequantize": "rounding",
    "quantize": "rounding",
}


def isa() -> str:
    """The instruction set that layers made from now on use, as in `python -m kt_kernel`.

    Raises ImportError when the extension is not built, or when the environment variable
    KT_KERNEL_ISA names an instruction set that is unknown or that this CPU lacks.
    """
    from ._native import ext

    return ext.isa()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
