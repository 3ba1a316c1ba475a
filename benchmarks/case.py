"""A method on a preset: the inputs, and the layer under test, made through the public class.

The package is imported here when a case is made and not at the top of a suite, so that asv can
list the suites on any commit.
"""

import copy
import importlib
from typing import Any

import torch

from .inputs import make_batch, make_lora, make_weights
from .presets import GROUP, PRESETS, SFT_METHODS, Preset


class Case:
    """Inputs and a layer that is not loaded yet.

    NotImplementedError, which asv shows as n/a, where this commit lacks the method.
    """

    def __init__(self, method: str, preset: str | Preset) -> None:
        if method not in methods():
            raise NotImplementedError(f"this commit has no method {method}")
        self.method = method
        self.shape = preset if isinstance(preset, Preset) else PRESETS[preset]
        self.batch = make_batch(self.shape)
        self.lora = make_lora(self.shape) if method in SFT_METHODS else None
        self.weights: list[list[torch.Tensor]] | None = make_weights(self.shape)
        self.layer = self.make_layer()

    def another(self, method: str, **options: Any) -> "Case":
        """A case of the same inputs: another method, or keywords of KTMoEWrapper. Not loaded."""
        other = copy.copy(self)
        other.method = method
        other.lora = make_lora(self.shape) if method in SFT_METHODS else None
        other.layer = other.make_layer(**options)
        return other

    def make_layer(self, **options: Any) -> Any:
        """A KTMoEWrapper without weights."""
        from kt_kernel import KTMoEWrapper

        shape = self.shape
        lora = {"lora_rank": shape.lora_rank, "lora_alpha": shape.lora_alpha} if self.lora else {}
        return KTMoEWrapper(
            layer_idx=0,
            num_experts=shape.experts,
            num_experts_per_tok=shape.top_k,
            hidden_size=shape.hidden,
            moe_intermediate_size=shape.intermediate,
            method=self.method,
            group_size=GROUP,
            **lora,
            **options,
        )

    def load(self) -> "Case":
        """Give the layer its weights and its LoRA tensors."""
        self.layer.load_weights_from_tensors(*self.weights)
        if self.lora:
            self.layer.init_lora_weights(*self.lora)
        return self

    def forward(self, save: bool = False) -> torch.Tensor:
        """One forward, whichever of the two calls the method has."""
        batch = self.batch
        arguments = (batch.hidden_states, batch.expert_ids, batch.weights)
        if self.lora:
            return self.layer.forward_sft(*arguments, save_for_backward=save)
        return self.layer.forward(*arguments)

    def backward(self, **options: bool) -> tuple:
        """The backward of the newest saved forward."""
        return self.layer.backward(self.batch.grad_output, **options)

    def native_layer(self) -> Any:
        """The native layer under the wrapper, whatever name this commit keeps it under."""
        kind = native().Layer
        found = [value for value in vars(self.layer).values() if isinstance(value, kind)]
        if len(found) != 1:
            raise RuntimeError(
                f"{type(self.layer).__name__} holds {len(found)} native layers, wanted one"
            )
        return found[0]


def methods() -> Any:
    """The table of this commit's methods; NotImplementedError where it has no such table yet."""
    try:
        return importlib.import_module("kt_kernel.methods").METHODS
    except ModuleNotFoundError as error:
        if error.name not in ("kt_kernel", "kt_kernel.methods"):
            raise
        raise NotImplementedError("this commit has no kt_kernel.methods") from error


def native() -> Any:
    """The extension that is installed with the package."""
    return importlib.import_module("kt_kernel.kt_kernel_ext")


def finite(value: float, what: str) -> float:
    """The value, or ValueError where it is not finite.

    asv would record NaN as n/a, and one infinity makes its publishing run away.
    """
    if not abs(value) < float("inf"):
        raise ValueError(f"{what} is {value}, wanted a finite number")
    return value
