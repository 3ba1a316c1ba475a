"""Error of the output and of every gradient: 100 mean|a - b| / mean|b| against float32 arithmetic.

The rows named after a tensor are errors against the original weights; most of INT4's is the
rounding of its weights. The kernel errors are against the weights as the method holds them,
dequantized: what the kernels add, which the others hide.

The errors of a method on a preset come out of one forward and one backward. asv runs every row in a
process of its own, but gives all rows of a suite with a setup_cache one folder to work in: the
first row leaves the errors there for the others, and the float32 results for the other methods.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear, silu

from .case import Case, finite, native
from .inputs import LORA_NAMES
from .presets import BF16, FORMATS, GROUP, PARAM_NAMES, PARAMS, SFT_PARAMS


def original(case: Case, expert: int) -> list[torch.Tensor]:
    """Gate, up and down of an expert in float32."""
    return [tensor[expert].float() for tensor in case.weights]


def dequantized(case: Case, expert: int) -> list[torch.Tensor]:
    """The same as a method that is not exact holds them."""
    name, roundtrip = FORMATS[case.method].name, native()._ops.roundtrip
    return [
        torch.from_numpy(roundtrip("", name, weight.numpy(), GROUP))
        for weight in original(case, expert)
    ]


def reference(case: Case, weights_of=original) -> dict[str, torch.Tensor]:
    """Output and gradients in float32 by torch.autograd, expert after expert.

    weights_of: gives gate, up and down of a case's expert. Keys: output, grad_input,
    grad_routing_weights and grad_<LoRA name>. Without LoRA, as in the inference methods, only the
    output is computed.
    """
    batch, scaling = case.batch, case.shape.lora_scaling
    result = {
        "output": torch.zeros(batch.hidden_states.shape),
        "grad_input": torch.zeros(batch.hidden_states.shape),
        "grad_routing_weights": torch.zeros(batch.weights.shape),
    }
    for name, tensor in zip(LORA_NAMES, case.lora or [], strict=False):
        result[f"grad_{name}"] = torch.zeros(tensor.shape)
    for expert in range(case.shape.experts):
        token, slot = (batch.expert_ids == expert).nonzero(as_tuple=True)
        x = batch.hidden_states[token].float().requires_grad_()
        r = batch.weights[token, slot].requires_grad_()
        gate, up, down = weights_of(case, expert)
        lora = [tensor[expert].float().requires_grad_() for tensor in case.lora or []]

        def project(value, weight, a_and_b):
            base = linear(value, weight)
            return (
                base + scaling * linear(linear(value, a_and_b[0]), a_and_b[1]) if a_and_b else base
            )

        hidden = silu(project(x, gate, lora[0:2])) * project(x, up, lora[2:4])
        y = r[:, None] * project(hidden, down, lora[4:6])
        result["output"].index_add_(0, token, y.detach())
        if lora:
            grad_x, grad_r, *grads = torch.autograd.grad(
                y, [x, r, *lora], batch.grad_output[token].float()
            )
            result["grad_input"].index_add_(0, token, grad_x)
            result["grad_routing_weights"][token, slot] = grad_r
            for name, grad in zip(LORA_NAMES, grads, strict=True):
                result[f"grad_{name}"][expert] = grad
    return result


def measure(
    method: str, preset: str, right: Callable[[Case], dict[str, torch.Tensor]] | None = None
) -> dict[str, float]:
    """All errors of the method on the preset in percent, against `right` or reference."""
    case = Case(method, preset).load()
    results = {"output": case.forward(save=True)}
    if case.lora:
        results["grad_input"], gradients, results["grad_routing_weights"] = case.backward(
            routing_weights_grad=True
        )
        results |= gradients
    wanted = (right or reference)(case)
    errors = {name: percent(value, wanted[name]) for name, value in results.items()}
    if case.lora:
        if FORMATS[method] is not BF16:
            wanted = reference(case, dequantized)
        for name in ("output", "grad_input"):
            errors[f"kernel_{name}"] = percent(results[name], wanted[name])
    return errors


def left_there(name: str, make: Callable[[], Any]) -> Any:
    """What make() gave whoever asked first for the file, in the folder of this process."""
    file = Path(name)
    if not file.exists():
        written = file.with_suffix(".new")
        torch.save(make(), written)
        os.replace(written, file)
    return torch.load(file)


def percent(value: torch.Tensor, wanted: torch.Tensor) -> float:
    """100 mean|value - wanted| / mean|wanted|."""
    return 100 * ((value.float() - wanted).abs().mean() / wanted.abs().mean()).item()


class RelativeError:
    """One row per tensor, in percent."""

    params = SFT_PARAMS
    param_names = PARAM_NAMES
    unit = "%"
    version = "2"

    def setup_cache(self):
        """Make asv run all rows in the folder in which this ran.

        Nothing is computed here, since only the chosen presets shall be.
        """

    def setup(self, method, preset):
        def right(case: Case) -> dict[str, torch.Tensor]:
            kind = "sft" if case.lora else "inference"
            return left_there(f"reference-{kind}-{preset}.pt", lambda: reference(case))

        self.errors = left_there(f"{method}-{preset}.pt", lambda: measure(method, preset, right))

    def error(self, name):
        return finite(self.errors[name], f"error of {name}")

    def track_output(self, method, preset):
        return self.error("output")

    track_output.params = PARAMS

    def track_grad_input(self, method, preset):
        return self.error("grad_input")

    def track_kernel_error(self, method, preset):
        return self.error("kernel_output")

    def track_kernel_error_grad_input(self, method, preset):
        return self.error("kernel_grad_input")

    def track_grad_routing_weights(self, method, preset):
        return self.error("grad_routing_weights")

    def track_grad_gate_lora_a(self, method, preset):
        return self.error("grad_gate_lora_a")

    def track_grad_gate_lora_b(self, method, preset):
        return self.error("grad_gate_lora_b")

    def track_grad_up_lora_a(self, method, preset):
        return self.error("grad_up_lora_a")

    def track_grad_up_lora_b(self, method, preset):
        return self.error("grad_up_lora_b")

    def track_grad_down_lora_a(self, method, preset):
        return self.error("grad_down_lora_a")

    def track_grad_down_lora_b(self, method, preset):
        return self.error("grad_down_lora_b")
