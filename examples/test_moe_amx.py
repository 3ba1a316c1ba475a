#!/usr/bin/env python
"""Accuracy and speed of the inference methods.

python examples/test_moe_amx.py --mode accuracy
python examples/test_moe_amx.py --mode perf --method AMXINT4_KGroup

Exits with 1 when an error exceeds its limit, with 2 for a method that is not there.
"""

from __future__ import annotations

import argparse
import sys

from common import (
    METHODS,
    Layer,
    available,
    build,
    clock,
    forward_accuracy,
    method_or_error,
    options_parser,
    print_latency,
    timed,
)


def test_accuracy(layer: Layer, options: argparse.Namespace) -> bool:
    """Output of several batches against the float32 reference."""
    print(f"\n=== Testing accuracy ({layer.method.name}) ===")
    return forward_accuracy(layer, options, layer.wrapper.forward)


def test_performance(layer: Layer, options: argparse.Namespace) -> bool:
    """Latency of one forward and tokens per second."""
    print(f"\n=== Testing performance ({layer.method.name}) ===")
    batch = layer.inputs(options, options.seed)
    arguments = batch.hidden_states, batch.expert_ids, batch.weights

    def step() -> list[float]:
        return clock(lambda: layer.wrapper.forward(*arguments))[:1]

    print_latency("forward", *timed(step, options, "forward"), options.qlen)
    return True


def main() -> int:
    """Returns the exit status."""
    parser = options_parser("Accuracy and speed of the inference methods.")
    parser.add_argument("--mode", choices=["accuracy", "perf"], default="accuracy", help="what")
    parser.add_argument(
        "--method", help=f"one of {available(sft=False)}; without it all, one after another"
    )
    options = parser.parse_args()
    test = {"accuracy": test_accuracy, "perf": test_performance}[options.mode]
    names = [options.method] if options.method else [m.name for m in METHODS.values() if not m.sft]
    methods = [method_or_error(parser, name, sft=False) for name in names]
    passed = True
    for method in methods:
        passed &= test(build(method, options), options)
    print("\n=== All tests passed! ===" if passed else "\n=== FAILED ===")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
