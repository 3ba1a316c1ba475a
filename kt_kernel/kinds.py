"""What one expert's weights may come as, checked and handed to the extension's layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from . import checks
from ._native import ext
from .codes import DTYPES, CodeFormat

Expert = tuple[torch.Tensor, ...]
"""One expert's tensors, in the order of `Kind.names`."""
Shapes = Mapping[str, tuple[int, int]]

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
SCALES = ("gate_scale", "up_scale", "down_scale")


def shapes(hidden_size: int, moe_intermediate_size: int) -> dict[str, tuple[int, int]]:
    """The shape of one expert's matrices."""
    up = moe_intermediate_size, hidden_size
    return dict(zip(PROJECTIONS, (up, up, up[::-1]), strict=True))


class Kind(Protocol):
    """A way in which weights come."""

    names: tuple[str, ...]

    def check(self, name: str, label: str, value: object, *lead: int) -> None:
        """TypeError or ValueError unless `value` fits.

        name: which of `names` it is; label: what errors call it; lead: dimensions before those of
        one expert.
        """

    def verify(self, layer: ext.Layer, index: int, expert: Expert) -> None:
        """Raises what `load` would raise for expert `index` of the source, and writes nothing."""

    def load(self, layer: ext.Layer, slot: int, index: int, expert: Expert) -> None:
        """Packs expert `index` of the source into `slot`; TypeError or ValueError."""


class Original:
    """gate, up, down in bfloat16 or float32, which the extension rounds to the layer's format.

    codes: that format's, for advice to those who pass codes without scales.
    """

    names: tuple[str, ...] = PROJECTIONS

    def __init__(self, shapes: Shapes, codes: CodeFormat | None) -> None:
        self._shapes = shapes
        self._codes = codes

    def check(self, name: str, label: str, value: object, *lead: int) -> None:
        """See `Kind`."""
        found = checks.tensor(label, value)
        if self._codes is not None and found.dtype in DTYPES:
            raise TypeError(
                f"{label}: wanted bfloat16 or float32 weights, got {found.dtype}; codes need "
                f"{', '.join(SCALES)} as well"
            )
        axes = (*("num_experts" for _ in lead), "rows", "cols")
        checks.check(label, found, checks.PARAMETERS, (*lead, *self._shapes[name]), axes)
        checks.held(label, found)

    def verify(self, layer: ext.Layer, index: int, expert: Expert) -> None:
        """See `Kind`."""
        _kept, views = self._views(index, expert)
        layer.check_expert(index, *views)

    def load(self, layer: ext.Layer, slot: int, index: int, expert: Expert) -> None:
        """See `Kind`."""
        _kept, views = self._views(index, expert)
        layer.load_expert(slot, *views)

    def _views(self, index: int, expert: Expert) -> tuple[list[torch.Tensor], list[ext.Tensor]]:
        """The extension's views, and the tensors whose memory they are."""
        kept, views = [], []
        for name, matrix in zip(self.names, expert, strict=True):
            label = f"{name}[{index}]"
            self.check(name, label, matrix)
            kept.append(matrix.contiguous())
            views.append(checks.own(label, kept[-1]))
        return kept, views


class Quantized:
    """Codes of gate, up and down, and their scales, which the extension takes as they are."""

    names: tuple[str, ...] = PROJECTIONS + SCALES

    def __init__(self, shapes: Shapes, codes: CodeFormat) -> None:
        self._shapes = dict(zip(self.names, (*shapes.values(), *shapes.values()), strict=True))
        self._codes = codes

    def check(self, name: str, label: str, value: object, *lead: int) -> None:
        """See `Kind`."""
        check = self._codes.check_scales if name in SCALES else self._codes.check_codes
        check(label, value, self._shapes[name], *lead)

    def verify(self, layer: ext.Layer, index: int, expert: Expert) -> None:
        """See `Kind`."""
        _kept, codes, scales = self._views(index, expert)
        layer.check_codes(index, codes, scales)

    def load(self, layer: ext.Layer, slot: int, index: int, expert: Expert) -> None:
        """See `Kind`."""
        _kept, codes, scales = self._views(index, expert)
        layer.load_codes(slot, codes, scales)

    def _views(
        self, index: int, expert: Expert
    ) -> tuple[list[torch.Tensor], list[ext.Tensor], list[ext.Tensor]]:
        """The extension's views of codes and scales, and the tensors whose memory they are."""
        kept, views = [], []
        for name, value in zip(self.names, expert, strict=True):
            label = f"{name}[{index}]"
            self.check(name, label, value)
            rows, cols = self._shapes[name]
            if name in SCALES:
                kept.append(self._codes.plain(value, rows))
            else:
                kept.append(self._codes.unpacked(value, cols))
            views.append(checks.own(label, kept[-1]))
        return kept, views[:3], views[3:]
