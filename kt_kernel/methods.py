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


METHODS = {
    method.name: method
    for method in (
        Method("AMXBF16_SFT", "bf16", True, 0.05, 0.0025, 0.10, 0.0045, 0.0040),
        Method("AMXBF16", "bf16", False, 0.05, 0.0025),
        Method("BF16", "bf16", False, 0.05, 0.0025),
    )
}

# Names of the ecosystem that are to come: refused as unbuilt rather than as misspelt.
UNBUILT = (
    "AMXINT8_SFT",
    "AMXINT4_SFT",
    "AMXINT4_KGroup_SFT",
    "AMXINT8",
    "AMXINT4",
    "AMXINT4_KGroup",
)


def resolve(method: str, mode: str | None = None) -> Method:
    """The entry of `method`, whose mode `mode` (None: whatever it is) must not contradict.

    Raises NotImplementedError for a method that is not built yet, ValueError for an unknown method
    or mode and for a mode that is not the method's.
    """
    available = ", ".join(METHODS)
    if method in UNBUILT:
        raise NotImplementedError(f"method {method} is not built yet; available: {available}")
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
