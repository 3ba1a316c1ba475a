"""The extension called directly, past KTMoEWrapper: views of memory, no checks."""

from __future__ import annotations

import torch
from torch import Tensor

from kt_kernel import KTMoEWrapper
from kt_kernel._native import ext
from kt_kernel.reference import Expert
from kt_kernel.synthetic import MoEInputs


def _view(name: str, tensor: Tensor) -> ext.Tensor:
    return ext.Tensor(
        name, tensor.data_ptr(), str(tensor.dtype).removeprefix("torch."), tensor.shape
    )


def load_first(wrapper: KTMoEWrapper, expert: Expert) -> None:
    """Loads the first expert alone.

    The layer then has its memory for all of them, `weight_bytes`, but has touched that of one only.
    """
    names = "gate_proj", "up_proj", "down_proj"
    wrapper._layer.load_expert(0, *map(_view, names, expert))


class NativeCalls:
    """Forward and backward of a wrapper's own native layer: its weights are not held twice.

    All results go into tensors made here, once.
    """

    def __init__(self, wrapper: KTMoEWrapper, batch: MoEInputs, loras: dict[str, Tensor]) -> None:
        self._layer = wrapper._layer
        output, grad_input = (
            torch.empty_like(batch.hidden_states),
            torch.empty_like(batch.grad_output),
        )
        grads = {f"grad_{name}": torch.empty_like(lora) for name, lora in loras.items()}
        self._alive = batch, output, grad_input, grads
        self._inputs = (
            _view("hidden_states", batch.hidden_states),
            _view("expert_ids", batch.expert_ids),
            _view("weights", batch.weights),
            _view("output", output),
        )
        self._grad_output = _view("grad_output", batch.grad_output)
        self._grad_input = _view("grad_input", grad_input)
        self._grad_loras = [_view(name, grad) for name, grad in grads.items()]

    def forward(self) -> None:
        """As `forward_sft(..., save_for_backward=False)`."""
        self._layer.forward(*self._inputs, False, None)

    def forward_backward(self) -> None:
        """As `forward_sft` and `backward`."""
        ticket = self._layer.forward(*self._inputs, True, None)
        self._layer.backward(ticket, self._grad_output, self._grad_input, self._grad_loras, None)
