"""The layer as a `torch.nn.Module` whose adapters are ordinary parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from . import checks
from .autograd import moe
from .reference import LORA_NAMES, lora_shapes

if TYPE_CHECKING:
    from .experts import KTMoEWrapper

_DTYPES = (torch.bfloat16, torch.float32)


class KTMoELayer(nn.Module):
    """Frozen experts of a `KTMoEWrapper` with LoRA adapters that train like any module's.

        wrapper = KTMoEWrapper(..., method="AMXBF16_SFT", max_cache_depth=1)
        wrapper.load_weights_from_tensors(gate_proj, up_proj, down_proj)
        layer = KTMoELayer(wrapper)
        layer(hidden_states, expert_ids, weights).sum().backward()

    The parameters `gate_lora_a` ... `down_lora_b` have the shapes of `kt_kernel.reference.
    lora_shapes`; the layer computes on their memory, so an optimizer's step shows in the next
    forward. `state_dict` holds them alone. max_cache_depth of the wrapper is the number of
    forwards that may wait for their backward; with gradient checkpointing 1 is enough.

    Args:
        wrapper: of an SFT method. Modules that share it share the experts and cache slots.
        dtype: of the parameters, torch.bfloat16 or torch.float32.

    Raises TypeError for another dtype and ValueError for a wrapper of an inference method.
    The experts lie in native memory of the CPU: moving the module to another device or to another
    dtype than the two is refused, and so is pickling it (save its `state_dict`). A deep copy has
    adapters of its own over the same experts.
    """

    def __init__(self, wrapper: KTMoEWrapper, *, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        if wrapper.mode != "sft":
            raise ValueError(
                f"wrapper: wanted an SFT method, got {wrapper.method}, which has no adapters"
            )
        if dtype not in _DTYPES:
            raise TypeError(f"dtype: wanted torch.bfloat16 or torch.float32, got {dtype}")
        self.wrapper = wrapper
        shapes = lora_shapes(
            wrapper.num_experts,
            wrapper.hidden_size,
            wrapper.moe_intermediate_size,
            wrapper.lora_rank,
        )
        for name, shape in shapes.items():
            parameter = nn.Parameter(torch.empty(shape, dtype=dtype, device="cpu"))
            self.register_parameter(name, parameter)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Makes a fresh adapter, as PEFT does.

        A is Kaiming-uniform with a = sqrt(5), which is uniform within 1 / sqrt(fan-in); B is zero,
        so that the layer starts as its frozen experts.
        """
        for name, parameter in self.named_parameters():
            if name.endswith("_a"):
                bound = parameter.shape[-1] ** -0.5
                nn.init.uniform_(parameter, -bound, bound)
            else:
                nn.init.zeros_(parameter)

    def forward(self, hidden_states: Tensor, expert_ids: Tensor, weights: Tensor) -> Tensor:
        """The layer's output, in the shape and dtype of hidden_states.

        hidden_states [..., hidden] bf16, float32 or float16; expert_ids (int64 or int32, -1 skips)
        and weights (float32 or bf16) [..., k] for the same number of tokens. Raises what
        `KTMoEWrapper.forward_sft` raises.
        """
        loras = tuple(getattr(self, name) for name in LORA_NAMES)
        output = moe(
            self.wrapper,
            _matrix("hidden_states", hidden_states),
            _matrix("expert_ids", expert_ids),
            _matrix("weights", weights),
            loras,
        )
        return output.view(hidden_states.shape)

    def extra_repr(self) -> str:
        """What `print(layer)` shows."""
        w = self.wrapper
        return (
            f"{w.method}, num_experts={w.num_experts}, num_experts_per_tok="
            f"{w.num_experts_per_tok}, hidden_size={w.hidden_size}, moe_intermediate_size="
            f"{w.moe_intermediate_size}, lora_rank={w.lora_rank}, lora_scaling={w.lora_scaling:g}"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KTMoELayer:
        """Where `.to()`, `.cuda()`, `.half()` and their like end: refuses before anything moves."""
        for dtype in {parameter.dtype for parameter in self.parameters()}:
            moved = fn(torch.empty(0, dtype=dtype, device="cpu"))
            if not moved.is_cpu:
                raise RuntimeError(
                    f"KTMoELayer computes on the CPU and cannot move to {moved.device}: leave it "
                    "where it is when the rest of the model moves, and pass it CPU tensors"
                )
            if moved.dtype not in _DTYPES:
                raise TypeError(
                    f"KTMoELayer's adapters are bfloat16 or float32, they cannot be {moved.dtype}"
                )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> KTMoELayer:
        """A layer with adapters of its own over the same frozen experts."""
        memo[id(self.wrapper)] = self.wrapper
        other = object.__new__(type(self))
        memo[id(self)] = other
        other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return other

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuses pickling, with what to do instead."""
        raise TypeError(
            "KTMoELayer cannot be pickled: its frozen experts lie in native memory. Save its "
            "state_dict(), the adapters, and load that into a layer made from a loaded wrapper"
        )


def _matrix(name: str, value: Tensor) -> Tensor:
    """All leading dimensions as one, contiguous."""
    found = checks.tensor(name, value)
    return (found.flatten(0, -2) if found.dim() > 2 else found).contiguous()
