"""The table of methods: what each name computes with, and how far its results may err.

Adding a method is one entry of `METHODS` once the extension has its format.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """One method.

    Errors are mean|a-b| / mean|b| against a float32 reference on the original weights. A limit is
    what may never be passed, at any shape; a target is what is aimed at, on 16 experts of
    2048 x 1408, 128 tokens, top 6, rank 16. The inference methods have no backward.
    """

    name: str
    format: str
    sft: bool
    forward_limit: float
    target_output: float
    backward_limit: float | None = None
    target_grad_input: float | None = None
    target_grad_lora: float | None = None

    @property
    def mode(self) -> str:
        """The word for it in the wrapper's `mode`."""
        return "sft" if self.sft else "inference"


# Against the weights as a quantized method holds them, dequantized: what the kernels add.
TARGET_KERNEL = 0.012
# Of AMXINT4_KGroup_SFT in groups of 32; its entry below is for groups of 128.
TARGETS_GROUP_32 = {"output": 0.145, "grad_input": 0.15, "grad_lora": 0.135}

METHODS = {
    method.name: method
    for method in (
        Method("AMXBF16_SFT", "bf16", True, 0.05, 0.0025, 0.10, 0.0045, 0.0040),
        Method("AMXBF16", "bf16", False, 0.05, 0.0025),
        Method("BF16", "bf16", False, 0.05, 0.0025),
        Method("AMXINT8_SFT", "int8", True, 0.10, 0.018, 0.15, 0.020, 0.018),
        Method("AMXINT8", "int8", False, 0.10, 0.018),
        Method("AMXINT4_SFT", "int4", True, 0.35, 0.185, 0.40, 0.19, 0.17),
        Method("AMXINT4", "int4", False, 0.35, 0.185),
        Method("AMXINT4_KGroup_SFT", "int4_kgroup", True, 0.20, 0.17, 0.25, 0.175, 0.16),
        Method("AMXINT4_KGroup", "int4_kgroup", False, 0.20, 0.17),
    )
}


def resolve(method: str, mode: str | None = None) -> Method:
    """The entry of `method`, whose mode `mode` (None: whatever it is) must not contradict.

    Raises ValueError for an unknown method or mode and for a mode that is not the method's.
    """
    available = ", ".join(METHODS)
    found = METHODS.get(method)
    if found is None:
        raise ValueError(f"method: {method!r} is unknown; available: {available}")
    if mode not in (None, "sft", "inference"):
        raise ValueError(f"mode: {mode!r} is unknown; wanted 'sft' or 'inference'")
    if mode not in (None, found.mode):
        raise ValueError(
            f"mode: {mode!r} contradicts method {method}, whose mode is {found.mode!r}"
        )
    return found
