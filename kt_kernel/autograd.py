"""The layer as one node of PyTorch's autograd graph.

A forward that will be differentiated leaves its activations in a cache slot of the wrapper, known
by a ticket. The slot belongs to the graph: backward uses it up, and a graph that is dropped
without backward gives it back. So any number of forwards may wait, up to the wrapper's
max_cache_depth, and their backwards may come in any order.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .reference import LORA_NAMES

if TYPE_CHECKING:
    from .experts import KTMoEWrapper

_serial = itertools.count(1)


class _Slot(bytearray):
    """Owner of one cache slot, and at the same time the memory of the tensor that stands for it.

    The graph saves that tensor like any other, so the slot lives exactly as long as the graph
    keeps it. Gradient checkpointing drops what a graph saves and makes it anew: the slot then
    goes and comes with the rest, where a ticket in `ctx` would hold activations all along.
    """

    def __init__(self, wrapper: KTMoEWrapper, ticket: int) -> None:
        serial = next(_serial)
        super().__init__(serial.to_bytes(8, sys.byteorder))
        self.wrapper, self.ticket, self.used = wrapper, ticket, False
        _live[serial] = self

    def __del__(self) -> None:
        if not self.used:
            self.wrapper._release(self.ticket)


_live: weakref.WeakValueDictionary[int, _Slot] = weakref.WeakValueDictionary()


def _find(token: Tensor) -> _Slot:
    slot = _live.get(int(token.item()))
    if slot is None:
        raise RuntimeError(
            "the saved activations of this forward are gone: a saved-tensors hook put copies in "
            "place of what the graph saved. They are no tensors and cannot be copied: call the "
            "layer outside of that hook"
        )
    if slot.used:
        raise RuntimeError(
            "backward a second time through the same forward of the layer: its activations were "
            "used up by the first, retain_graph=True does not keep them. Run the forward again"
        )
    return slot


class _MoEFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        wrapper: KTMoEWrapper,
        save: bool,
        hidden_states: Tensor,
        expert_ids: Tensor,
        weights: Tensor,
        *loras: Tensor,
    ) -> Tensor:
        ticket = wrapper._new_ticket(save)
        slot = _Slot(wrapper, ticket) if save else None  # from here on whatever ends this frees it
        output = wrapper._forward_ticket(hidden_states, expert_ids, weights, ticket)
        if slot is not None:
            token = torch.frombuffer(slot, dtype=torch.int64)
            # Backward reads the adapters where they are; torch checks that nobody changed them.
            ctx.save_for_backward(token, *loras)
            ctx.routing_dtype = weights.dtype
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "gradients of the layer's gradients are not available: run backward without "
                "create_graph=True"
            )
        token, *loras = ctx.saved_tensors
        slot = _find(token)
        with slot.wrapper._lock:  # other threads may have adapters of their own
            slot.wrapper._use_lora(loras)
            grad_input, grad_loras, grad_weights = slot.wrapper._backward_ticket(
                slot.ticket, grad_output.contiguous(), ctx.needs_input_grad[4]
            )
        slot.used = True
        if grad_weights is not None:
            grad_weights = grad_weights.to(ctx.routing_dtype)
        # In the order of forward's arguments; torch drops those that nobody wants.
        by_adapter = (grad_loras[f"grad_{name}"] for name in LORA_NAMES)
        return None, None, grad_input, None, grad_weights, *by_adapter


def moe(
    wrapper: KTMoEWrapper,
    hidden_states: Tensor,
    expert_ids: Tensor,
    weights: Tensor,
    loras: tuple[Tensor, ...],
) -> Tensor:
    """The layer's output [qlen, hidden], differentiable in hidden_states, weights and loras.

    wrapper: an SFT wrapper with its weights loaded; hidden_states [qlen, hidden] bf16, float32 or
    float16; expert_ids [qlen, k]; weights [qlen, k] float32 or bf16; loras: the six tensors, in
    the order of `LORA_NAMES`, which the wrapper computes with from now on.
    A cache slot is taken only where a gradient will be wanted.
    Raises what `KTMoEWrapper.forward_sft` raises, and at backward RuntimeError: when an adapter
    was changed in place since the forward, for a second backward through the same forward, and for
    create_graph=True.
    """
    wanted = any(tensor.requires_grad for tensor in (hidden_states, weights, *loras))
    save = wanted and torch.is_grad_enabled()
    apply: Callable[..., Tensor] = _MoEFunction.apply
    with wrapper._lock:  # other threads may have adapters of their own
        wrapper._use_lora(loras)
        return apply(wrapper, save, hidden_states, expert_ids, weights, *loras)
