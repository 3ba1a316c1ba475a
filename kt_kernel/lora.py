"""The caller's LoRA tensors, which the extension reads in place.

Nothing is copied, so an optimizer's step counts at once. What must be watched is that the memory is
still there: `parameter.data = other` moves it, sharded training frees it between steps.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Sequence

import torch

from . import checks
from ._native import ext
from .reference import LORA_NAMES

GRAD_NAMES = tuple(f"grad_{name}" for name in LORA_NAMES)

Gradients = dict[str, torch.Tensor]


class LoraTensors:
    """Six tensors of one layer in the order of `LORA_NAMES`, and where the layer reads them."""

    def __init__(self, shapes: dict[str, tuple[int, int, int]]) -> None:
        self._shapes = shapes
        self._tensors: list[torch.Tensor] | None = None
        self._lock = threading.Lock()
        # What the layer was given last. The aliases keep that memory alive when `.data` is
        # replaced, and so an unchanged address always means unchanged memory.
        self._held: list[torch.Tensor] = []
        self._addresses: list[int] = []

    def are(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether these are the very tensors that are set."""
        return self._tensors is not None and all(map(operator.is_, tensors, self._tensors))

    def set(self, layer: ext.Layer, tensors: Sequence[torch.Tensor]) -> None:
        """Gives these to the layer; for unfit ones TypeError or ValueError, and nothing changes."""
        held, views = [], []
        for (name, shape), value in zip(self._shapes.items(), tensors, strict=True):
            alias = checks.tensor(name, value).detach()
            axes = ("lora_rank", "in") if name.endswith("_a") else ("out", "lora_rank")
            view = checks.view(name, alias, checks.PARAMETERS, shape, ("num_experts", *axes))
            held.append(alias)
            views.append(view)
            if alias.dtype != held[0].dtype:
                raise TypeError(
                    f"{name}: wanted dtype {held[0].dtype} as {LORA_NAMES[0]} has, "
                    f"got {alias.dtype}"
                )
        with self._lock:
            # An interrupt may come when the layer has the new ones and nobody here knows: they are
            # kept alive, and the next pass gives the layer what `_tensors` says.
            self._held, self._addresses = [*self._held, *held], []
            layer.set_lora(views)
            self._tensors = list(tensors)
            self._held = held
            self._addresses = [alias.data_ptr() for alias in held]

    def follow(self, layer: ext.Layer, *, anyway: bool = False) -> None:
        """Gives the tensors to the layer again if their memory moved.

        Raises RuntimeError when none are set, TypeError or ValueError when they became unfit.
        """
        if self._tensors is None:
            raise RuntimeError("LoRA tensors are not set: call init_lora_weights first")
        addresses = [tensor.data_ptr() for tensor in self._tensors]
        if anyway or addresses != self._addresses:
            self.set(layer, self._tensors)

    def empty_gradients(self) -> tuple[Gradients, list[ext.Tensor]]:
        """Room for the gradients, shaped and typed as the tensors, and the layer's views of it."""
        gradients = [torch.empty_like(alias) for alias in self._held]
        dtype = checks.PARAMETERS[gradients[0].dtype]
        views = [
            ext.Tensor(name, gradient.data_ptr(), dtype, shape)
            for name, gradient, shape in zip(
                GRAD_NAMES, gradients, self._shapes.values(), strict=True
            )
        ]
        return dict(zip(GRAD_NAMES, gradients, strict=True)), views
