"""Random layers and inputs from a seed: what tests, examples and benchmarks measure on.

Weights are normal with variance 1 / fan-in, so that activations neither grow nor fade.
Everything is the same for the same seed and torch version, on any number of threads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from kt_kernel.reference import Expert, lora_shapes

# Distance between the windows of neighbouring experts. A prime, so that no row of one expert is a
# row of another unless hidden or intermediate size is a multiple of it.
_STEP = 4099


class SyntheticExperts(Sequence[Expert]):
    """Weights of any number of experts in the memory of one.

    Expert e is a window that begins e * 4099 values into a pool of normal random numbers: each
    expert is by itself a random matrix and differs from every other, yet it costs nothing to make,
    and none needs to be stored. 256 experts of DeepSeek-V3 widths take 90 MB instead of 22.5 GB.
    Indexing gives views, contiguous but aligned to one element only: gate and up
    [intermediate, hidden], down [hidden, intermediate].
    """

    def __init__(
        self,
        num_experts: int,
        hidden_size: int,
        intermediate_size: int,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.num_experts = num_experts
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        size, reach = hidden_size * intermediate_size, num_experts * _STEP
        generator = torch.Generator().manual_seed(seed)
        self._in_pool = _normal(2 * size + reach, hidden_size, generator, dtype)
        self._out_pool = _normal(size + reach, intermediate_size, generator, dtype)

    def __len__(self) -> int:
        """The number of experts."""
        return self.num_experts

    @overload
    def __getitem__(self, expert: int) -> Expert: ...
    @overload
    def __getitem__(self, expert: slice) -> Sequence[Expert]: ...
    def __getitem__(self, expert: int | slice) -> Expert | Sequence[Expert]:
        """Views of one expert; IndexError for one that is not there."""
        if isinstance(expert, slice):
            return [self[e] for e in range(*expert.indices(len(self)))]
        if not 0 <= expert < self.num_experts:
            raise IndexError(f"expert is {expert}, must be from 0 to {self.num_experts - 1}")
        size, start = self.hidden_size * self.intermediate_size, expert * _STEP
        rows, columns = self.intermediate_size, self.hidden_size
        return (
            self._in_pool[start : start + size].view(rows, columns),
            self._in_pool[start + size : start + 2 * size].view(rows, columns),
            self._out_pool[start : start + size].view(columns, rows),
        )

    def to(self, dtype: torch.dtype) -> "SyntheticExperts":
        """The same experts in another dtype, converted once for all of them."""
        other = object.__new__(SyntheticExperts)
        other.__dict__.update(self.__dict__)
        other._in_pool, other._out_pool = self._in_pool.to(dtype), self._out_pool.to(dtype)
        return other

    def stacked(self) -> tuple[Tensor, Tensor, Tensor]:
        """gate, up [E, intermediate, hidden] and down [E, hidden, intermediate], as copies."""
        gate, up, down = zip(*self, strict=True)
        return torch.stack(gate), torch.stack(up), torch.stack(down)


def make_loras(
    num_experts: int,
    hidden_size: int,
    intermediate_size: int,
    rank: int,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
) -> dict[str, Tensor]:
    """The six LoRA tensors, by name, of an adapter that was trained for a while.

    A has variance 1 / fan-in, B a standard deviation of 0.05: a fresh adapter has B = 0, which
    would hide half of the arithmetic.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = lora_shapes(num_experts, hidden_size, intermediate_size, rank)
    return {
        name: _normal(shape, shape[-1] if name.endswith("_a") else 400, generator, dtype)
        for name, shape in shapes.items()
    }


@dataclass(frozen=True)
class MoEInputs:
    """hidden_states, grad_output [qlen, hidden]; expert_ids int64, weights float32 [qlen, k]."""

    hidden_states: Tensor
    expert_ids: Tensor
    weights: Tensor
    grad_output: Tensor


def make_inputs(
    qlen: int,
    num_experts: int,
    top_k: int,
    hidden_size: int,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
) -> MoEInputs:
    """Normal hidden states and output gradients, balanced routing, softmax routing weights.

    Balanced: tokens walk round a random order of the experts, so that no token names an expert
    twice and the loads of any two experts differ by at most one token.
    Raises ValueError where top_k exceeds num_experts.
    """
    if top_k > num_experts:
        raise ValueError(f"top_k is {top_k}, more than the {num_experts} experts")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(num_experts, generator=generator)
    logits = torch.randn(qlen, top_k, generator=generator)
    return MoEInputs(
        hidden_states=_normal((qlen, hidden_size), 1, generator, dtype),
        expert_ids=order[torch.arange(qlen * top_k) % num_experts].view(qlen, top_k),
        weights=torch.softmax(logits, dim=-1),
        grad_output=_normal((qlen, hidden_size), 1, generator, dtype),
    )


def _normal(
    shape: int | tuple[int, ...], fan_in: int, generator: torch.Generator, dtype: torch.dtype
) -> Tensor:
    """Normal numbers of variance 1 / fan_in."""
    values: Tensor = torch.randn(shape, generator=generator) / fan_in**0.5
    return values.to(dtype)
