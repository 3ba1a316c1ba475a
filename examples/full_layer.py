#!/usr/bin/env python
"""A whole layer of DeepSeek-V3, 256 experts of 7168 x 2048, in a machine's memory.

python examples/full_layer.py --method AMXINT4_KGroup_SFT

In bfloat16 its weights are 22.5 GB; with --offload-folder a file holds them. Here a generator makes
one expert after the other, and the layer rounds and packs it before the next is drawn: it never
needs more than the result and one expert. Then it runs forward and backward, and prints memory,
times and tokens per second.
"""

from __future__ import annotations

import argparse
import sys
import time
from operator import itemgetter
from pathlib import Path

import torch
from common import clock, method_or_error, options_parser, print_latency, timed
from memory import DEEPSEEK_V3_EXPERTS, GB

import kt_kernel
from kt_kernel import KTMoEWrapper
from kt_kernel.synthetic import SyntheticExperts, make_inputs, make_loras


def parse() -> argparse.Namespace:
    """The options, --method as an entry of METHODS."""
    parser = options_parser(__doc__.splitlines()[0])
    parser.set_defaults(expert_num=DEEPSEEK_V3_EXPERTS, warmup=1, repeat=3)
    parser.add_argument("--method", default="AMXINT8_SFT", help="an SFT method")
    parser.add_argument("--lora-rank", type=int, default=16, help="rank of the LoRA adapters")
    parser.add_argument(
        "--offload-folder",
        metavar="FOLDER",
        help="a file there holds the weights, memory as much of them as it can",
    )
    options = parser.parse_args()
    options.method = method_or_error(parser, options.method, sft=True)
    return options


def resident() -> tuple[float, float]:
    """GB of memory that this process holds, and the most that it ever held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    now, peak = (int(status[name].split()[0]) * 1024 / GB for name in ("VmRSS", "VmHWM"))
    return now, peak


def load(options: argparse.Namespace) -> KTMoEWrapper:
    """The layer, of random experts; prints what loading took."""
    experts = SyntheticExperts(
        options.expert_num, options.hidden_size, options.intermediate_size, seed=options.seed
    )
    layer = KTMoEWrapper(
        layer_idx=0,
        num_experts=options.expert_num,
        num_experts_per_tok=options.top_k,
        hidden_size=options.hidden_size,
        moe_intermediate_size=options.intermediate_size,
        method=options.method.name,
        lora_rank=options.lora_rank,
        group_size=options.group_size,
        cpuinfer_threads=options.threads,
        threadpool_count=options.threadpool_count,
        offload_folder=options.offload_folder,
    )
    print(f"before loading     {resident()[0]:8.2f} GB")
    start = time.perf_counter()
    layer.load_weights_from_tensors(*(map(itemgetter(part), experts) for part in range(3)))
    seconds = time.perf_counter() - start
    now, peak = resident()
    weights = 3 * options.expert_num * options.hidden_size * options.intermediate_size
    packed = layer._layer.weight_bytes
    print(f"loaded             {now:8.2f} GB, peak {peak:.2f} GB, in {seconds:.1f} s")
    print(f"weights            {packed / GB:8.2f} GB, {packed / weights:.4f} bytes each")
    return layer


def main() -> None:
    """Loads, trains a few steps without an optimizer, and prints what it took."""
    options = parse()
    sys.stdout.reconfigure(line_buffering=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    print(
        f"{options.method.name}, {kt_kernel.isa()}: {options.expert_num} experts of "
        f"{options.hidden_size} x {options.intermediate_size}, top {options.top_k}, "
        f"rank {options.lora_rank}, {options.qlen} tokens"
    )
    try:
        layer = load(options)
    except (ValueError, OSError) as error:  # sizes that do not fit each other, a full disk
        raise SystemExit(f"error: {error}") from error
    sizes = options.expert_num, options.hidden_size, options.intermediate_size, options.lora_rank
    layer.init_lora_weights(**make_loras(*sizes, seed=options.seed))
    batch = make_inputs(
        options.qlen, options.expert_num, options.top_k, options.hidden_size, seed=options.seed
    )
    results = []

    def forward() -> None:
        results[:] = [layer.forward_sft(batch.hidden_states, batch.expert_ids, batch.weights)]

    def backward() -> None:
        grad_input, grad_loras = layer.backward(batch.grad_output)
        results.extend([grad_input, *grad_loras.values()])

    columns = timed(lambda: clock(forward, backward), options, "training step")
    for name, seconds in zip(("forward", "backward", "forward+backward"), columns, strict=True):
        print_latency(name, seconds, options.qlen)
    print(f"trained            {resident()[0]:8.2f} GB, peak {resident()[1]:.2f} GB")
    if not all(torch.isfinite(result.float()).all() for result in results):
        raise SystemExit("error: a result is not finite")


if __name__ == "__main__":
    main()
