"""Weights that come quantized: the codes and scales that a format takes, checked and unpacked.

docs/quantized.md describes the layouts for callers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from . import checks
from ._native import ext

DTYPES: checks.Dtypes = {torch.int8: "int8", torch.uint8: "uint8", torch.int32: "int32"}
SCALE_DTYPES: checks.Dtypes = checks.ACTIVATIONS

_WORD_BITS = {torch.uint8: 8, torch.int32: 32}


@dataclass(frozen=True)
class CodeFormat:
    """What a format of integer codes looks like to callers.

    bits: of a code; group: columns of a row that share a scale, 0 where all of them do.
    """

    bits: int
    group: int

    @classmethod
    def of(cls, format: str, group_size: int) -> CodeFormat | None:
        """That of a format of the extension's; None for a format that has no codes."""
        known = ext.codes(format)
        if known is None:
            return None
        _, high, grouped = known
        return cls(high.bit_length() + 1, group_size if grouped else 0)

    def per_element(self, dtype: torch.dtype) -> int:
        """Codes in one element of a tensor of `dtype`; 0 where it holds none."""
        if dtype is torch.int8:
            return 1
        codes = _WORD_BITS.get(dtype, 0) // self.bits
        return codes if codes > 1 else 0

    @property
    def dtypes(self) -> checks.Dtypes:
        """The dtypes that codes may have."""
        return {dtype: name for dtype, name in DTYPES.items() if self.per_element(dtype)}

    def width(self, dtype: torch.dtype, cols: int) -> int:
        """Elements of one row of `cols` codes."""
        return -(-cols // self.per_element(dtype))

    def scale_shapes(self, shape: tuple[int, int]) -> list[tuple[int, ...]]:
        """The shapes that the scales of codes [rows, cols] may have."""
        rows, cols = shape
        return [(rows, cols // self.group)] if self.group else [(rows,), (rows, 1)]

    def check_codes(self, name: str, value: object, shape: tuple[int, int], *lead: int) -> None:
        """TypeError or ValueError unless `value` is codes [*lead, rows, cols], packed or not."""
        found = checks.tensor(name, value)
        if found.dtype not in self.dtypes:
            raise TypeError(
                f"{name}: wanted codes of dtype {' or '.join(self.dtypes.values())}, as scales "
                f"are given, got {found.dtype}"
            )
        rows, cols = shape
        per = self.per_element(found.dtype)
        axes = _axes(lead, "rows", "cols" if per == 1 else f"cols/{per}")
        wanted = *lead, rows, self.width(found.dtype, cols)
        checks.check(name, found, self.dtypes, wanted, axes)
        checks.held(name, found)

    def check_scales(self, name: str, value: object, shape: tuple[int, int], *lead: int) -> None:
        """TypeError or ValueError unless `value` is the scales of codes [*lead, rows, cols]."""
        found = checks.tensor(name, value)
        names = ("rows", f"cols/{self.group}" if self.group else "1")
        options = [(*lead, *option) for option in self.scale_shapes(shape)]
        wanted = next((option for option in options if len(option) == found.dim()), options[0])
        axes = _axes(lead, *names[: len(wanted) - len(lead)])
        checks.check(name, found, SCALE_DTYPES, wanted, axes)
        checks.held(name, found)

    def unpacked(self, codes: torch.Tensor, cols: int) -> torch.Tensor:
        """The codes as int8 [..., cols], contiguous; themselves when they are that already.

        Packed ones have 2^(bits - 1) added and begin in the lowest bits of each element.
        """
        if codes.dtype is torch.int8:
            return codes.contiguous()
        raw = codes.contiguous().view(torch.uint8)  # of a word, the lowest byte is the first
        unsigned = raw.new_empty((*raw.shape, 8 // self.bits))
        for i in range(8 // self.bits):
            torch.bitwise_right_shift(raw, self.bits * i, out=unsigned[..., i])
        unsigned &= 2**self.bits - 1
        unsigned -= 2 ** (self.bits - 1)  # wraps
        return unsigned.view(torch.int8).flatten(-2)[..., :cols].contiguous()

    def plain(self, scales: torch.Tensor, rows: int) -> torch.Tensor:
        """One matrix's scales in float32, contiguous: [rows], or [rows, groups]."""
        shape = (rows, -1) if self.group else (rows,)
        return scales.to(torch.float32).reshape(shape).contiguous()


def _axes(lead: tuple[int, ...], *names: str) -> tuple[str, ...]:
    return (*("num_experts" for _ in lead), *names)
