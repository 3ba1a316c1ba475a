"""Brings expert weights into the extension's layer, one expert after the other.

Loading holds one expert beside the packed result, however large the layer: a source is drawn from
only when the expert before has been packed and let go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from tqdm import tqdm

from . import checks
from ._native import ext
from .reference import Expert

Source = torch.Tensor | Iterable[torch.Tensor]

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")

_SECONDS_BEFORE_PROGRESS = 3.0


def shapes(hidden_size: int, moe_intermediate_size: int) -> dict[str, tuple[int, int]]:
    """The shape of one expert's matrices."""
    up = moe_intermediate_size, hidden_size
    return dict(zip(PROJECTIONS, (up, up, up[::-1]), strict=True))


def from_tensors(
    sources: Mapping[str, Source], num_experts: int, wanted: Mapping[str, tuple[int, int]]
) -> Iterator[Expert]:
    """Experts out of whole tensors [num_experts, rows, cols] or iterables of matrices.

    Whole tensors are checked here and now, before anything is loaded. Iterables are checked as they
    are drawn: ValueError when one ends too early or goes on too long.
    """
    for name, source in sources.items():
        if isinstance(source, torch.Tensor):
            shape = num_experts, *wanted[name]
            checks.check(name, source, checks.PARAMETERS, shape, ("num_experts", "rows", "cols"))
            steps = zip(source.shape, source.stride(), strict=True)
            checks.stored(name, source, 1 + sum((size - 1) * stride for size, stride in steps))
        elif not isinstance(source, Iterable):
            raise TypeError(
                f"{name}: wanted a tensor or an iterable of tensors, got {type(source).__name__}"
            )
    return _side_by_side({name: iter(source) for name, source in sources.items()}, num_experts)


def _side_by_side(
    sources: Mapping[str, Iterator[torch.Tensor]], num_experts: int
) -> Iterator[Expert]:
    def draw(name: str, expert: int) -> torch.Tensor:
        for matrix in sources[name]:
            return matrix
        raise ValueError(f"{name}: wanted {num_experts} experts, got {expert}")

    for expert in range(num_experts):
        yield draw("gate_proj", expert), draw("up_proj", expert), draw("down_proj", expert)
    for name, source in sources.items():
        for _ in source:
            raise ValueError(f"{name}: wanted {num_experts} experts, got more")


def fill(
    layer: ext.Layer,
    experts: Iterator[Expert],
    slots: list[int],
    wanted: Mapping[str, tuple[int, int]],
    title: str,
) -> None:
    """Loads the i-th expert into slot `slots[i]`, for every i; `title` names the progress bar.

    Raises TypeError or ValueError for a matrix that is not as `wanted`, and what `experts` raises.
    """
    bar = tqdm(
        slots,
        desc=f"{title}: loading experts",
        delay=_SECONDS_BEFORE_PROGRESS,
        disable=None,  # shown on a terminal only
        leave=False,
    )
    for index, slot in enumerate(bar):
        _fill_slot(layer, slot, index, next(experts), wanted)
    for _ in experts:  # lets the source report what is left over
        pass


def _fill_slot(
    layer: ext.Layer,
    slot: int,
    index: int,
    expert: Expert,
    wanted: Mapping[str, tuple[int, int]],
) -> None:
    matrices, views = [], []
    for (name, shape), matrix in zip(wanted.items(), expert, strict=True):
        label = f"{name}[{index}]"
        checks.check(label, matrix, checks.PARAMETERS, shape, ("rows", "cols"))
        matrices.append(matrix.contiguous())  # kept until packed: a view does not own its memory
        views.append(checks.view(label, matrices[-1], checks.PARAMETERS, shape, ("rows", "cols")))
    layer.load_expert(slot, *views)
