#!/usr/bin/env python
"""Accuracy, training and speed of the SFT methods through KTMoEWrapper.

python examples/test_moe_sft_wrapper.py --mode all
python examples/test_moe_sft_wrapper.py --mode backward --method AMXINT8_SFT
python examples/test_moe_sft_wrapper.py --method AMXINT4_KGroup_SFT --group-size 32
python examples/test_moe_sft_wrapper.py --mode perf --compare-native

Exits with 1 when an error exceeds its limit, the loss does not fall far enough or the wrapper costs
more than 5% over the extension called directly, with 2 for a method that is not there.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import torch
from common import (
    Layer,
    available,
    build,
    clock,
    compute_relative_error,
    forward_accuracy,
    join,
    make_loras,
    method_or_error,
    options_parser,
    print_latency,
    progress,
    reference,
    timed,
    within,
)
from native import NativeCalls
from torch import nn
from tqdm import tqdm

OVERHEAD_LIMIT = 0.05
LOSS_TARGET = 0.05


def test_forward_accuracy(layer: Layer, options: argparse.Namespace) -> bool:
    """Output of several batches against the float32 reference."""
    print(f"\n=== Testing forward accuracy ({layer.method.name}) ===")

    def forward(*arguments):
        return layer.wrapper.forward_sft(*arguments, save_for_backward=False)

    return forward_accuracy(layer, options, forward)


def test_backward_accuracy(layer: Layer, options: argparse.Namespace) -> bool:
    """Every gradient against the float32 reference.

    Those of the input and of the routing weights batch by batch, those of the adapters summed over
    the batches, as gradient accumulation sums them.
    """
    print(f"\n=== Testing backward accuracy ({layer.method.name}) ===")
    batches = [layer.inputs(options, options.seed + i) for i in range(options.iterations)]
    grad_inputs, grad_weights = [], []
    sums = {f"grad_{name}": torch.zeros(lora.shape) for name, lora in layer.loras.items()}
    for batch in progress(batches, "forward and backward", "batch"):
        layer.wrapper.forward_sft(batch.hidden_states, batch.expert_ids, batch.weights)
        grad_input, grad_loras, grad_routing = layer.wrapper.backward(
            batch.grad_output, routing_weights_grad=True
        )
        grad_inputs.append(grad_input)
        grad_weights.append(grad_routing)
        for name, grad in grad_loras.items():
            sums[name] += grad
    expected = reference(layer, join(batches), backward=True)

    def by_batch(actual, whole):
        return list(map(compute_relative_error, actual, whole.split(options.qlen)))

    errors = {
        "grad_input": by_batch(grad_inputs, expected.grad_input),
        "grad_weights": by_batch(grad_weights, expected.grad_weights),
    }
    for name, total in sums.items():
        errors[name] = [compute_relative_error(total, expected.grad_loras[name])]
    limit = layer.method.backward_limit
    passed = [within(name, values, limit) for name, values in errors.items()]
    return all(passed)


def test_training_loop(layer: Layer, options: argparse.Namespace) -> bool:
    """Trains a fresh adapter until the layer gives the outputs of the layer's own adapter.

    The loss is the mean squared distance to those outputs, as a part of what it is at the start.
    """
    print(f"\n=== Testing training loop ({layer.method.name}) ===")
    wrapper, batch = layer.wrapper, layer.inputs(options, options.seed)
    arguments = batch.hidden_states, batch.expert_ids, batch.weights
    target = wrapper.forward_sft(*arguments, save_for_backward=False).float()
    adapter = _fresh_adapter(layer, options)
    wrapper.init_lora_weights(*adapter.values())
    # AdamW moves every value by about its rate. What that does to A x grows with the number of
    # inputs, so A's rate falls with it, and the same rates serve layers of any width.
    rates = {n: 0.5 / p.shape[-1] if n.endswith("_a") else 2e-3 for n, p in adapter.items()}
    optimizer = torch.optim.AdamW(
        [{"params": [adapter[name]], "lr": rate} for name, rate in rates.items()], weight_decay=0.0
    )
    start = loss = None
    for step in progress(range(options.steps), "training", "step"):
        distance = wrapper.forward_sft(*arguments).float() - target
        loss = distance.square().mean().item()
        start = start or loss
        tqdm.write(f"step {step:3d}  loss {loss / start:.4f}")
        # The gradient of the squared distance; AdamW does not mind its scale.
        _, gradients = wrapper.backward(distance.to(batch.hidden_states.dtype))
        if loss < LOSS_TARGET * start:
            break
        for name, parameter in adapter.items():
            parameter.grad = gradients[f"grad_{name}"]
        optimizer.step()
        wrapper.update_lora_weights()
    wrapper.init_lora_weights(*layer.loras.values())
    passed = loss < LOSS_TARGET * start
    print(
        f"loss fell to {loss / start:.4f} of its start in {step} steps, target {LOSS_TARGET}: "
        f"{'passed' if passed else 'FAILED'}"
    )
    return passed


def _fresh_adapter(layer: Layer, options: argparse.Namespace) -> dict[str, nn.Parameter]:
    """B is zero, so that training starts from the frozen experts alone."""
    w = layer.wrapper
    sizes = w.num_experts, w.hidden_size, w.moe_intermediate_size, w.lora_rank
    fresh = make_loras(*sizes, seed=options.seed + 1)
    return {
        name: nn.Parameter(lora.zero_() if name.endswith("_b") else lora)
        for name, lora in fresh.items()
    }


def test_performance(layer: Layer, options: argparse.Namespace) -> bool:
    """Latency of forward, of backward and of both, and tokens per second."""
    print(f"\n=== Testing performance ({layer.method.name}) ===")
    wrapper, batch = layer.wrapper, layer.inputs(options, options.seed)
    arguments = batch.hidden_states, batch.expert_ids, batch.weights

    def forward() -> list[float]:
        return clock(lambda: wrapper.forward_sft(*arguments, save_for_backward=False))[:1]

    def both() -> list[float]:
        return clock(
            lambda: wrapper.forward_sft(*arguments, save_for_backward=True),
            lambda: wrapper.backward(batch.grad_output),
        )

    print_latency("forward", *timed(forward, options, "forward"), options.qlen)
    _, backward, total = timed(both, options, "forward+backward")
    print_latency("backward", backward, options.qlen)
    print_latency("forward+backward", total, options.qlen)
    return compare_native(layer, options) if options.compare_native else True


def compare_native(layer: Layer, options: argparse.Namespace) -> bool:
    """What the wrapper costs over the extension called directly on the same layer, in turns."""
    wrapper, batch = layer.wrapper, layer.inputs(options, options.seed)
    arguments = batch.hidden_states, batch.expert_ids, batch.weights
    native = NativeCalls(wrapper, batch, layer.loras)

    def wrapped_both() -> None:
        wrapper.forward_sft(*arguments, save_for_backward=True)
        wrapper.backward(batch.grad_output)

    passed = True
    for name, ours, theirs in (
        (
            "forward",
            lambda: wrapper.forward_sft(*arguments, save_for_backward=False),
            native.forward,
        ),
        ("forward+backward", wrapped_both, native.forward_backward),
    ):
        wrapper_time, native_time = _in_turns(ours, theirs, options)
        overhead = (wrapper_time - native_time) / native_time
        cheap = overhead < OVERHEAD_LIMIT
        passed &= cheap
        print(
            f"{name:<18} {wrapper_time * 1e3:10.3f} ms wrapper {native_time * 1e3:10.3f} ms native "
            f"(medians), wrapper overhead {overhead:.1%}, limit {OVERHEAD_LIMIT:.0%}: "
            f"{'passed' if cheap else 'FAILED'}"
        )
    return passed


def _in_turns(ours, theirs, options: argparse.Namespace) -> tuple[float, float]:
    """Medians of both; who goes first alternates, so that neither profits from the other."""
    swapped = False

    def step() -> list[float]:
        nonlocal swapped
        swapped = not swapped
        first, second, _ = clock(theirs, ours) if swapped else clock(ours, theirs)
        return [second, first] if swapped else [first, second]

    wrapper_times, native_times = timed(step, options, "wrapper and native")
    return statistics.median(wrapper_times), statistics.median(native_times)


TESTS = {
    "forward": test_forward_accuracy,
    "backward": test_backward_accuracy,
    "training": test_training_loop,
    "perf": test_performance,
}


def main() -> int:
    """Returns the exit status."""
    parser = options_parser("Accuracy, training and speed of the SFT methods.")
    parser.add_argument("--mode", choices=[*TESTS, "all"], default="all", help="what to test")
    parser.add_argument("--method", default="AMXBF16_SFT", help=f"one of {available(sft=True)}")
    parser.add_argument(
        "--compare-native", action="store_true", help="in perf: the wrapper against the extension"
    )
    parser.add_argument("--lora-rank", type=int, default=16, help="rank of the adapters")
    parser.add_argument("--lora-alpha", type=float, default=32.0, help="scaling is alpha / rank")
    parser.add_argument("--steps", type=int, default=60, help="most steps of the training mode")
    options = parser.parse_args()
    layer = build(method_or_error(parser, options.method, sft=True), options)
    tests = TESTS.values() if options.mode == "all" else [TESTS[options.mode]]
    results = [test(layer, options) for test in tests]
    passed = all(results)
    print("\n=== All tests passed! ===" if passed else "\n=== FAILED ===")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
