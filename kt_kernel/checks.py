"""Checks of what callers pass, shared by the whole boundary.

The rule for exceptions: TypeError for what is not a tensor (or number) of an accepted dtype,
ValueError for shape, layout, device, memory and values, RuntimeError for calls out of order,
NotImplementedError for what is not built yet. Each names the argument, what came and what was
wanted. Values inside tensors (ids in range, finite weights) are checked by the extension, before
it writes anything.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping

import torch

from ._native import ext

Dtypes = Mapping[torch.dtype, str]

ACTIVATIONS: Dtypes = {
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float16: "float16",
}
PARAMETERS: Dtypes = {torch.bfloat16: "bfloat16", torch.float32: "float32"}
ROUTING_WEIGHTS: Dtypes = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
EXPERT_IDS: Dtypes = {torch.int64: "int64", torch.int32: "int32"}
MASK: Dtypes = {torch.bool: "bool"}
_NAMES: Dtypes = {**ACTIVATIONS, **EXPERT_IDS, **MASK, torch.int8: "int8"}

GROUP_SIZES = (32, 64, 128)
SIZE, LORA_RANK = 2**24, 256  # at most, as the extension has it

# kt-kernel's keywords that are not built yet, at the value that asks for nothing.
NEUTRAL: Mapping[str, object] = {
    "cpu_save": False,
    "full_weight_grad": False,
    "lora_dropout": 0.0,
    "max_deferred_experts_per_token": 0,
    "numa_nodes": None,
    "swiglu_alpha": 0.0,
    "swiglu_limit": 0.0,
    "zero_point": False,
}


def refuse_unbuilt(keywords: Mapping[str, object]) -> None:
    """NotImplementedError for a keyword that asks for what is not built, TypeError for others."""
    for name, value in keywords.items():
        if name not in NEUTRAL:
            raise TypeError(f"KTMoEWrapper got an unexpected keyword argument {name!r}")
        neutral = NEUTRAL[name]
        if value is None or (isinstance(value, (bool, int, float)) and value == neutral):
            continue
        raise NotImplementedError(
            f"{name}={value!r} is not built yet; only {neutral!r} is accepted"
        )


def integer(name: str, value: object, low: int = 1, high: int = 2**31 - 1) -> int:
    """`value` as an int within [low, high] (the extension counts in 32 bits).

    Raises TypeError or ValueError.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{name}: wanted an integer, got {value!r}")
    if not low <= number <= high:
        raise ValueError(f"{name}: wanted {low} to {high}, got {number}")
    return number


def size(name: str, value: object) -> int:
    """`value` as an int from 1 to `SIZE`; TypeError or ValueError."""
    return integer(name, value, high=SIZE)


def group_size(value: int, hidden_size: int, moe_intermediate_size: int, parts: int) -> None:
    """ValueError unless groups of `value` columns divide the rows of all matrices and parts."""
    if value not in GROUP_SIZES:
        raise ValueError(f"group_size: wanted 32, 64 or 128, got {value}")
    if hidden_size % value:
        raise ValueError(f"hidden_size: wanted a multiple of group_size={value}, got {hidden_size}")
    if moe_intermediate_size % (parts * value):
        raise ValueError(
            f"moe_intermediate_size: wanted a multiple of threadpool_count={parts} times "
            f"group_size={value}, got {moe_intermediate_size}"
        )


def positive(name: str, value: object) -> float:
    """`value` as a finite float above zero; TypeError or ValueError otherwise."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name}: wanted a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name}: wanted a finite number above 0, got {value!r}")
    return number


def scaling(alpha: float, rank: int) -> float:
    """lora_alpha / lora_rank; ValueError where float32, with which it multiplies, has no such."""
    found, limits = alpha / rank, torch.finfo(torch.float32)
    if not limits.tiny <= found <= limits.max:
        raise ValueError(
            f"lora_alpha: wanted lora_alpha / lora_rank from {limits.tiny:.2g} to "
            f"{limits.max:.2g}, got {alpha:g} / {rank}"
        )
    return found


def folder(name: str, value: object) -> str:
    """`value` as the path of a folder that exists, "" for None; TypeError or ValueError."""
    if value is None:
        return ""
    try:
        path = os.fsdecode(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: wanted a path or None, got {type(value).__name__}") from None
    if not os.path.isdir(path):
        raise ValueError(f"{name}: wanted a folder that exists, got {path!r}")
    return os.path.abspath(path)  # wherever the process is when it loads


def tensor(name: str, value: object) -> torch.Tensor:
    """`value` itself when it is a tensor; TypeError otherwise."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: wanted a torch.Tensor, got {type(value).__name__}")
    return value


def rows(name: str, value: object) -> int:
    """The number of rows of a matrix; TypeError or ValueError when it is none."""
    matrix = tensor(name, value)
    if matrix.dim() != 2:
        raise ValueError(f"{name}: wanted 2 dimensions, got shape {tuple(matrix.shape)}")
    return matrix.shape[0]


def check(
    name: str, value: object, dtypes: Dtypes, shape: tuple[int, ...], axes: tuple[str, ...]
) -> str:
    """The extension's name of the dtype of a CPU tensor of this shape, however it is strided.

    `axes` says in errors what each dimension of `shape` is. Raises TypeError or ValueError.
    """
    found = tensor(name, value)
    if found.layout is not torch.strided:
        raise ValueError(f"{name}: wanted a dense (strided) tensor, got layout {found.layout}")
    if not found.is_cpu:
        raise ValueError(f"{name}: wanted a tensor on device cpu, got one on {found.device}")
    dtype = dtypes.get(found.dtype)
    if dtype is None:
        raise TypeError(f"{name}: wanted dtype {' or '.join(dtypes.values())}, got {found.dtype}")
    if found.shape != shape:
        wanted = ", ".join(f"{axis}={size}" for axis, size in zip(axes, shape, strict=True))
        raise ValueError(f"{name}: wanted shape [{wanted}], got {list(found.shape)}")
    return dtype


def view(
    name: str, value: torch.Tensor, dtypes: Dtypes, shape: tuple[int, ...], axes: tuple[str, ...]
) -> ext.Tensor:
    """The extension's view of a contiguous CPU tensor: no copy, so the caller keeps it alive."""
    dtype = check(name, value, dtypes, shape, axes)
    if not value.is_contiguous():
        raise ValueError(
            f"{name}: wanted a contiguous tensor, got strides {list(value.stride())} for shape "
            f"{list(shape)}; call .contiguous() on it"
        )
    stored(name, value, value.numel())
    return ext.Tensor(name, value.data_ptr(), dtype, shape)


def held(name: str, value: torch.Tensor) -> None:
    """As `stored`, for a tensor that is strided in any way."""
    steps = zip(value.shape, value.stride(), strict=True)
    stored(name, value, 1 + sum((size - 1) * stride for size, stride in steps))


def stored(name: str, value: torch.Tensor, reach: int) -> None:
    """ValueError unless the storage holds the `reach` elements from the tensor's first to its last.

    Sharded training frees a parameter's storage and leaves the tensor as an empty shell.
    """
    end = (value.storage_offset() + reach) * value.itemsize
    held = value.untyped_storage().nbytes()
    if held < end:
        raise ValueError(
            f"{name}: its storage holds {held} bytes of the {end} that shape {list(value.shape)} "
            "needs: it was freed or shrunk"
        )


def own(name: str, value: torch.Tensor) -> ext.Tensor:
    """The extension's view of a tensor that this package made, which needs no check."""
    return ext.Tensor(name, value.data_ptr(), _NAMES[value.dtype], value.shape)


def slots(permutation: object, num_experts: int) -> list[int]:
    """Where each loaded expert goes: the inverse of `permutation`, int64 [num_experts] or None."""
    name = "physical_to_logical_map_cpu"
    if permutation is None:
        return list(range(num_experts))
    check(name, permutation, {torch.int64: "int64"}, (num_experts,), ("num_experts",))
    sources: list[int] = tensor(name, permutation).tolist()
    if sorted(sources) != list(range(num_experts)):
        raise ValueError(f"{name}: wanted a permutation of 0 to {num_experts - 1}, got {sources}")
    inverse = [0] * num_experts
    for slot, source in enumerate(sources):
        inverse[source] = slot
    return inverse


def gpu_mask(mask: object, count: object, num_experts: int) -> torch.Tensor | None:
    """The bool mask [num_experts] of experts computed elsewhere, a copy; None when there are none.

    Without a mask the first `count` experts are the GPU's; with one, `count` is 0 or the mask's.
    """
    count = integer("num_gpu_experts", count, 0, num_experts)
    if mask is None:
        return torch.arange(num_experts, device="cpu") < count if count else None
    check("gpu_experts_mask", mask, MASK, (num_experts,), ("num_experts",))
    copy = tensor("gpu_experts_mask", mask).clone(memory_format=torch.contiguous_format)
    marked = int(copy.sum())
    if count not in (0, marked):
        raise ValueError(
            f"num_gpu_experts={count} contradicts gpu_experts_mask, which marks {marked} experts"
        )
    return copy if marked else None
