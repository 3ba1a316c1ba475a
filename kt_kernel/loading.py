"""The calls that bring expert weights into the extension's layer, one expert after the other.

Loading holds one expert beside the packed result, however large the layer: a source is drawn from
only when the expert before has been packed and let go.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from . import checks
from ._native import ext
from .checkpoint import LayerWeights
from .codes import CodeFormat
from .kinds import PROJECTIONS, SCALES, Expert, Kind, Original, Quantized, Shapes

Source = torch.Tensor | Iterable[torch.Tensor]

_SECONDS_BEFORE_PROGRESS = 3.0


class LoadingCalls:
    """The calls, over what `KTMoEWrapper` sets up."""

    layer_idx: int
    method: str
    num_experts: int
    weight_path: str | os.PathLike[str]
    _codes: CodeFormat | None  # of the method's format, None if that has no codes
    _lock: threading.RLock
    _shapes: Shapes
    _weights_loaded: bool

    if TYPE_CHECKING:

        def _open(self) -> ext.Layer: ...

    def load_weights_from_tensors(
        self,
        gate_proj: Source,
        up_proj: Source,
        down_proj: Source,
        physical_to_logical_map_cpu: torch.Tensor | None = None,
        *,
        gate_scale: Source | None = None,
        up_scale: Source | None = None,
        down_scale: Source | None = None,
    ) -> None:
        """Takes the experts' weights over, packed; what was passed is not needed afterwards.

        Args:
            gate_proj: [E, I, H], bfloat16 or float32, strided in any way; or an iterable of E
                tensors [I, H], of which only one at a time is held. With scales: codes of that
                shape as int8, or packed along the last axis as uint8 (4 bits only) or int32.
            up_proj: the same.
            down_proj: [E, H, I], or E tensors [H, I]; likewise.
            physical_to_logical_map_cpu: int64 [E], a permutation: slot i computes with the weights
                at index map[i]. expert_ids and LoRA tensors are indexed by slot.
            gate_scale: None, or the scales of codes, which then are taken as they are, weight =
                scale * code, by a method with integer weights: bfloat16, float16 or float32, [E, I]
                or [E, I, 1], with groups [E, I, H / group_size]; or E tensors without E.
                docs/quantized.md has the layouts.
            up_scale: the same.
            down_scale: likewise, [E, H] or [E, H, 1], with groups [E, H, I / group_size].

        Raises TypeError or ValueError, after which the layer counts as not loaded, and RuntimeError
        when weights are loaded already. Whole tensors are checked before anything is written, their
        values as well; what an iterable yields is checked expert by expert.
        """
        slots = checks.slots(physical_to_logical_map_cpu, self.num_experts)
        sources: dict[str, object] = dict(
            zip(PROJECTIONS, (gate_proj, up_proj, down_proj), strict=True)
        )
        scales = dict(zip(SCALES, (gate_scale, up_scale, down_scale), strict=True))
        given = [name for name, source in scales.items() if source is not None]
        kind: Kind = Original(self._shapes, self._codes)
        if given:
            if self._codes is None:
                raise ValueError(f"{given[0]}: {self.method} takes no codes, wanted no scales")
            kind = Quantized(self._shapes, self._codes)
            sources |= scales
        checked = _checked(sources, self.num_experts, kind)
        whole = all(isinstance(source, torch.Tensor) for source in checked.values())
        with self._lock:
            layer = self._not_loaded()
            if whole and self._codes is not None:
                for index, expert in enumerate(_side_by_side(checked, self.num_experts)):
                    kind.verify(layer, index, expert)
            self._fill(layer, _side_by_side(checked, self.num_experts), slots, kind)

    def load_weights(self, physical_to_logical_map_cpu: torch.Tensor | None = None) -> None:
        """Loads layer `layer_idx` from `weight_path`; see `kt_kernel.checkpoint` for names.

        Raises as `load_weights_from_tensors` and as `kt_kernel.checkpoint.LayerWeights`.
        """
        slots = checks.slots(physical_to_logical_map_cpu, self.num_experts)
        experts = LayerWeights(
            self.weight_path, self.layer_idx, self.num_experts, self._shapes, self._codes
        )
        with self._lock:
            self._fill(self._not_loaded(), iter(experts), slots, experts.kind)

    def _not_loaded(self) -> ext.Layer:
        layer = self._open()
        if self._weights_loaded:
            raise RuntimeError("weights are loaded already; make a new KTMoEWrapper for others")
        return layer

    def _fill(
        self, layer: ext.Layer, experts: Iterator[Expert], slots: list[int], kind: Kind
    ) -> None:
        """Loads the i-th expert into slot `slots[i]`, for every i."""
        bar = tqdm(
            slots,
            desc=f"layer {self.layer_idx}: loading experts",
            delay=_SECONDS_BEFORE_PROGRESS,
            disable=None,  # shown on a terminal only
            leave=False,
        )
        for index, slot in enumerate(bar):
            kind.load(layer, slot, index, next(experts))
        for _ in experts:  # lets the source report what is left over
            pass
        self._weights_loaded = True


def _checked(sources: Mapping[str, object], num_experts: int, kind: Kind) -> dict[str, Source]:
    """Whole tensors [num_experts, ...] that fit, and iterables, which are checked when drawn."""
    found: dict[str, Source] = {}
    for name, source in sources.items():
        if isinstance(source, torch.Tensor):
            kind.check(name, name, source, num_experts)
        elif not isinstance(source, Iterable):
            raise TypeError(
                f"{name}: wanted a tensor or an iterable of tensors, got {type(source).__name__}"
            )
        found[name] = source
    return found


def _side_by_side(sources: Mapping[str, Source], num_experts: int) -> Iterator[Expert]:
    """Each expert's tensors; ValueError when a source ends too early or goes on too long."""
    drawn = {name: iter(source) for name, source in sources.items()}

    def draw(name: str, expert: int) -> torch.Tensor:
        for matrix in drawn[name]:
            return matrix
        raise ValueError(f"{name}: wanted {num_experts} experts, got {expert}")

    for expert in range(num_experts):
        yield tuple([draw(name, expert) for name in sources])
    for name, source in drawn.items():
        for _ in source:
            raise ValueError(f"{name}: wanted {num_experts} experts, got more")
