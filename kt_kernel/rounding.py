"""Rounding weights to integers, and back, outside of a layer but by the code that loading runs.

A layer that loads what `quantize` returns is, bit for bit, the layer that loads the weights
themselves, but for one thing: with threadpool_count > 1 the latter has a scale for each part of a
row of down_proj, where a method has a scale for each row.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from . import checks
from ._native import ext
from .codes import CodeFormat
from .methods import METHODS

_AXES = ("num_experts", "rows", "cols")


def quantize(
    weight: torch.Tensor, method: str, group_size: int = 128
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rounds weights to codes and scales, so that scale * code is near the weight.

    Args:
        weight: [N, K] or [E, N, K], bfloat16 or float32, finite, strided in any way.
        method: a method with integer weights (`kt_kernel.methods.METHODS`), or its format: "int8",
            "int4", "int4_kgroup".
        group_size: 32, 64 or 128 columns to a scale, a divisor of K, for methods with groups.

    Returns codes, int8 of weight's shape, from -127 to 127 or, of 4 bits, from -8 to 7; and scales,
    float32 [N] or [N, K / group_size], after E where weight has it. Scales may be negative.
    Raises TypeError or ValueError, which name the argument.
    """
    format = _format(method)
    layout = _layout(format, checks.integer("group_size", group_size))
    lead, shape = _split("weight", weight)
    if layout.group not in (0, *checks.GROUP_SIZES):
        raise ValueError(f"group_size: wanted 32, 64 or 128, got {group_size}")
    if layout.group and shape[1] % layout.group:
        raise ValueError(
            f"weight: wanted a multiple of group_size={group_size} columns, got {shape[1]}"
        )
    axes = _AXES[-weight.dim() :]
    checks.check("weight", weight, checks.PARAMETERS, (*lead, *shape), axes)
    checks.held("weight", weight)
    codes = torch.empty(weight.shape, dtype=torch.int8, device="cpu")
    per_row = layout.scale_shapes(shape)[0]
    scales = torch.empty((*lead, *per_row), dtype=torch.float32, device="cpu")
    for label, matrix, code, scale in _each(lead, weight, codes, scales):
        dense = matrix.contiguous()
        views = (checks.own(f"weight{label}", dense), checks.own("codes", code))
        ext.quantize(format, *views, checks.own("scales", scale))
    return codes, scales


def dequantize(codes: torch.Tensor, scales: torch.Tensor, method: str) -> torch.Tensor:
    """The float32 weights, [N, K] or [E, N, K], that a layer computes with when it loads these.

    That is scale * code; methods with groups hold a scale in 11 bits, so that bfloat16 and float16
    ones are exact, and float32 ones other than `quantize`'s are rounded.

    Args:
        codes: int8 [N, K] or [E, N, K], or packed along the last axis as
            `KTMoEWrapper.load_weights_from_tensors` takes them; K is then all that a row holds.
        scales: bfloat16, float16 or float32 [N], [N, 1] or [N, K / group_size], after E where codes
            have it.
        method: as of `quantize`.

    Raises TypeError or ValueError, which name the argument.
    """
    format = _format(method)
    lead, (rows, width) = _split("codes", codes)
    cols = width * max(1, _layout(format, 0).per_element(codes.dtype))
    groups = (checks.tensor("scales", scales).shape or (1,))[-1]
    layout = _layout(format, next((g for g in checks.GROUP_SIZES if g * groups == cols), 128))
    layout.check_codes("codes", codes, (rows, cols), *lead)
    layout.check_scales("scales", scales, (rows, cols), *lead)
    weight = torch.empty((*lead, rows, cols), dtype=torch.float32, device="cpu")
    for label, code, scale, result in _each(lead, codes, scales, weight):
        plain = layout.unpacked(code, cols), layout.plain(scale, rows)
        views = checks.own(f"codes{label}", plain[0]), checks.own(f"scales{label}", plain[1])
        ext.dequantize(format, *views, checks.own("weight", result))
    return weight


def _format(method: object) -> str:
    """The format of a method, or itself; ValueError for an unknown one."""
    formats = ext.formats()
    found = METHODS.get(method) if isinstance(method, str) else None
    if found is not None:
        return found.format
    if method in formats:
        return str(method)
    raise ValueError(f"method: {method!r} is unknown; available: {', '.join((*METHODS, *formats))}")


def _layout(format: str, group_size: int) -> CodeFormat:
    found = CodeFormat.of(format, group_size)
    if found is None:
        raise ValueError(f"method: wanted one with integer weights, got {format}")
    return found


def _split(name: str, value: object) -> tuple[tuple[int, ...], tuple[int, int]]:
    """The dimension of experts, if there is one, and the shape of a matrix."""
    found = checks.tensor(name, value)
    if found.dim() not in (2, 3) or 0 in found.shape[-2:]:
        raise ValueError(
            f"{name}: wanted shape [N, K] or [E, N, K] with N, K > 0, got {list(found.shape)}"
        )
    *lead, rows, cols = found.shape
    return tuple(lead), (rows, cols)


def _each(
    lead: tuple[int, ...], *tensors: torch.Tensor
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Matrix by matrix: its index, as errors name it, and its slice of three tensors."""
    if not lead:
        first, second, third = tensors
        yield "", first, second, third
        return
    for index, (first, second, third) in enumerate(zip(*tensors, strict=True)):
        yield f"[{index}]", first, second, third
