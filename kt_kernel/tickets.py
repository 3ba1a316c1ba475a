"""A layer's forward and backward by ticket: what `KTMoEWrapper` and autograd both stand on.

This is the path of every call: it checks the arguments, makes views of their memory, allocates the
results and hands all to the extension. Nothing is copied, and no operator runs but allocations.
"""

from __future__ import annotations

import threading

import torch

from . import checks
from ._native import ext
from .lora import Gradients, LoraTensors

_PER_TOKEN = ("qlen", "hidden_size")
_PER_SLOT = ("qlen", "num_experts_per_tok")


class SavedForwards:
    """The tickets of saved forwards, of which a backward without ticket takes the newest.

    A thread takes the newest of its own, and another thread's only when it has none, so that
    threads that share a layer do not get each other's gradients.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[int, int]] = []  # (thread, ticket)
        self._lock = threading.Lock()

    def add(self, ticket: int) -> None:
        """Makes it this thread's newest."""
        with self._lock:
            self._entries.append((threading.get_ident(), ticket))

    def discard(self, ticket: int) -> None:
        """Takes it off the list if it is there."""
        with self._lock:
            self._entries = [entry for entry in self._entries if entry[1] != ticket]

    def take(self) -> int:
        """The newest ticket, no longer in the list; RuntimeError when there is none."""
        thread = threading.get_ident()
        with self._lock:
            if not self._entries:
                raise RuntimeError(
                    "backward: no forward is saved; each needs a forward_sft(..., "
                    "save_for_backward=True) before it"
                )
            own = [entry for entry in self._entries if entry[0] == thread]
            entry = own[-1] if own else self._entries[-1]
            self._entries.remove(entry)
        return entry[1]


class TicketCalls:
    """The calls, over what `KTMoEWrapper` sets up."""

    hidden_size: int
    num_experts_per_tok: int
    _layer: ext.Layer | None  # None once closed
    _weights_loaded: bool
    _lora: LoraTensors | None  # None for inference methods
    _skip: ext.Tensor | None  # the experts computed elsewhere

    def _new_ticket(self, save: bool) -> int:
        """Of a forward to come; 0 where it is to save nothing.

        Who asks has to `_release` it when anything ends what follows. Python raises
        KeyboardInterrupt after a call of the extension is done and before its result is anybody's.
        """
        return self._open().next_ticket() if save else 0

    def _forward_ticket(
        self,
        hidden_states: torch.Tensor,
        expert_ids: torch.Tensor,
        weights: torch.Tensor,
        ticket: int,
    ) -> torch.Tensor:
        """The output; what backward needs is saved under the ticket, unless that is 0."""
        layer = self._ready()
        qlen = checks.rows("hidden_states", hidden_states)
        token, slot = (qlen, self.hidden_size), (qlen, self.num_experts_per_tok)
        x = checks.view("hidden_states", hidden_states, checks.ACTIVATIONS, token, _PER_TOKEN)
        ids = checks.view("expert_ids", expert_ids, checks.EXPERT_IDS, slot, _PER_SLOT)
        routing = checks.view("weights", weights, checks.ROUTING_WEIGHTS, slot, _PER_SLOT)
        output = torch.empty_like(hidden_states)
        y = checks.own("output", output)
        layer.forward(x, ids, routing, y, ticket != 0, self._skip, ticket)
        return output

    def _backward_ticket(
        self, ticket: int, grad_output: torch.Tensor, routing_weights_grad: bool
    ) -> tuple[torch.Tensor, Gradients, torch.Tensor | None]:
        """Gradients of the forward of that ticket, whose cache slot is then free."""
        layer = self._ready()
        qlen = layer.saved_tokens(ticket)
        token, slot = (qlen, self.hidden_size), (qlen, self.num_experts_per_tok)
        dy = checks.view("grad_output", grad_output, checks.ACTIVATIONS, token, _PER_TOKEN)
        grad_input = torch.empty_like(grad_output)
        dx = checks.own("grad_input", grad_input)
        loras, views = self._lora.empty_gradients() if self._lora is not None else ({}, [])
        grad_weights, dr = None, None
        if routing_weights_grad:
            grad_weights = torch.empty(slot, dtype=torch.float32, device="cpu")
            dr = checks.own("grad_weights", grad_weights)
        layer.backward(ticket, dy, dx, views, dr)
        return grad_input, loras, grad_weights

    def _release(self, ticket: int) -> None:
        """Frees the cache slot of a `_forward_ticket` without a backward, if there is one."""
        layer = self._layer  # another thread may close it
        if layer is not None and ticket:
            layer.release(ticket)

    def _is_saved(self, ticket: int) -> bool:
        """Whether a backward may still take it."""
        try:
            self._open().saved_tokens(ticket)
        except RuntimeError:
            return False
        return True

    def _open(self) -> ext.Layer:
        if self._layer is None:
            raise RuntimeError("this layer was closed; make a new KTMoEWrapper")
        return self._layer

    def _ready(self) -> ext.Layer:
        """The layer, with its weights loaded and its LoRA tensors where they are now."""
        layer = self._open()
        if not self._weights_loaded:
            raise RuntimeError(
                "weights are not loaded: call load_weights_from_tensors or load_weights first"
            )
        if self._lora is not None:
            self._lora.follow(layer)
        return layer
