"""What the example scripts share: options, a layer that fits in memory, accuracy and timing."""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

# An installed kt_kernel comes first; without one, the package beside this folder serves.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from memory import choose_expert_num
from native import load_first

from kt_kernel import KTMoEWrapper
from kt_kernel.methods import METHODS, Method
from kt_kernel.reference import (
    LORA_NAMES,
    compute_relative_error,
    lora_shapes,
    moe_reference,
    moe_sft_torch_forward,
)
from kt_kernel.synthetic import MoEInputs, SyntheticExperts, make_inputs, make_loras


def options_parser(description: str) -> argparse.ArgumentParser:
    """The options of both scripts; the defaults are DeepSeek-V3's layer and the usual counts."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )

    def number(flag: str, default: int | None, text: str) -> None:
        parser.add_argument(flag, type=_positive, default=default, help=text, metavar="N")

    number("--expert-num", None, "number of experts; without it 256, or the most that fit")
    number("--hidden-size", 7168, "width of a token")
    number("--intermediate-size", 2048, "width of an expert")
    number("--top-k", 8, "experts per token")
    number("--qlen", 128, "tokens per forward")
    number("--iterations", 10, "batches of the accuracy modes")
    number("--warmup", 5, "untimed runs of the perf mode")
    number("--repeat", 20, "timed runs of the perf mode")
    number("--threads", None, "threads to compute with; without it every core")
    number("--threadpool-count", 1, "tensor parallel parts")
    number("--group-size", 128, "weights per scale of the KGroup methods: 128, 64 or 32")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def available(sft: bool) -> str:
    """The names of the SFT or the inference methods."""
    return ", ".join(method.name for method in METHODS.values() if method.sft == sft)


def method_or_error(parser: argparse.ArgumentParser, name: str, sft: bool) -> Method:
    """The method of that name; ends the script with the list of those available otherwise."""
    found = METHODS.get(name)
    if found is not None and found.sft == sft:
        return found
    kind = "SFT" if sft else "inference"
    reason = f"no {kind} method" if found else "unknown"
    parser.error(f"method {name} is {reason}; available {kind} methods: {available(sft)}")


@dataclass
class Layer:
    """A loaded layer and what its results are checked against."""

    method: Method
    wrapper: KTMoEWrapper
    experts: SyntheticExperts
    loras: dict[str, Tensor] | None

    def inputs(self, options: argparse.Namespace, seed: int) -> MoEInputs:
        """One batch of --qlen tokens."""
        w = self.wrapper
        return make_inputs(
            options.qlen, w.num_experts, w.num_experts_per_tok, w.hidden_size, seed=seed
        )


def build(method: Method, options: argparse.Namespace) -> Layer:
    """A layer with random experts, and random adapters where the method has them.

    The experts are windows into one pool of random numbers (kt_kernel.synthetic), so the packed
    weights are all the memory they take, and the reference reads the originals.
    """
    sys.stdout.reconfigure(line_buffering=True)  # so that long runs show their lines through pipes
    if options.threads:
        torch.set_num_threads(options.threads)
    num_experts = options.expert_num
    if num_experts is None:
        probe = _wrapper(method, 16, options)
        load_first(probe, _experts(1, options)[0])
        num_experts = choose_expert_num(probe, options)
        del probe
    elif num_experts < options.top_k:
        raise SystemExit(f"error: --expert-num {num_experts} is less than --top-k {options.top_k}")
    experts = _experts(num_experts, options)
    wrapper = _wrapper(method, num_experts, options)
    gate, up, down = (map(itemgetter(part), experts) for part in range(3))
    wrapper.load_weights_from_tensors(gate, up, down)
    loras = None
    if method.sft:
        loras = make_loras(
            num_experts,
            options.hidden_size,
            options.intermediate_size,
            options.lora_rank,
            seed=options.seed,
        )
        wrapper.init_lora_weights(*loras.values())
    return Layer(method, wrapper, experts, loras)


def _experts(num_experts: int, options: argparse.Namespace) -> SyntheticExperts:
    return SyntheticExperts(
        num_experts, options.hidden_size, options.intermediate_size, seed=options.seed
    )


def _wrapper(method: Method, num_experts: int, options: argparse.Namespace) -> KTMoEWrapper:
    """Without weights."""
    adapters = (
        {"lora_rank": options.lora_rank, "lora_alpha": options.lora_alpha} if method.sft else {}
    )
    try:
        return KTMoEWrapper(
            layer_idx=0,
            num_experts=num_experts,
            num_experts_per_tok=options.top_k,
            hidden_size=options.hidden_size,
            moe_intermediate_size=options.intermediate_size,
            method=method.name,
            cpuinfer_threads=options.threads,
            threadpool_count=options.threadpool_count,
            group_size=options.group_size,
            **adapters,
        )
    except ValueError as error:  # sizes that do not fit each other
        raise SystemExit(f"error: {error}") from error


def progress(items: Iterable, name: str, unit: str) -> Iterable:
    """A progress bar on terminals."""
    return tqdm(items, name, unit=unit, leave=False, disable=None)


def join(batches: list[MoEInputs]) -> MoEInputs:
    """The batches as one, for a reference that reads each expert once."""
    return MoEInputs(
        *(
            torch.cat([getattr(batch, field) for batch in batches])
            for field in ("hidden_states", "expert_ids", "weights", "grad_output")
        )
    )


def reference(layer: Layer, batch: MoEInputs, backward: bool):
    """The float32 reference on the original weights, with progress."""
    return moe_reference(
        batch.hidden_states,
        batch.expert_ids,
        batch.weights,
        layer.experts.to(torch.float32),
        layer.loras,
        layer.wrapper.lora_scaling if layer.loras else 1.0,
        grad_output=batch.grad_output if backward else None,
        progress=lambda used: progress(used, "reference", "expert"),
    )


def forward_accuracy(layer: Layer, options: argparse.Namespace, forward: Callable) -> bool:
    """Checks `forward(hidden_states, expert_ids, weights)` on several batches."""
    batches = [layer.inputs(options, options.seed + i) for i in range(options.iterations)]
    outputs = [
        forward(batch.hidden_states, batch.expert_ids, batch.weights)
        for batch in progress(batches, "forward", "batch")
    ]
    expected = reference(layer, join(batches), backward=False).output.split(options.qlen)
    by_token = _by_definition(layer, batches[0], tokens=min(4, options.qlen))
    errors = list(map(compute_relative_error, outputs, expected))
    return all(
        [
            within("output", errors, layer.method.forward_limit),
            within(
                "reference against the per-token loop",
                [compute_relative_error(expected[0][: len(by_token)], by_token)],
                1e-5,
            ),
        ]
    )


def _by_definition(layer: Layer, batch: MoEInputs, tokens: int) -> Tensor:
    """The first tokens by `moe_sft_torch_forward` in float32, over the experts that they use."""
    ids = batch.expert_ids[:tokens]
    used = ids.unique()
    experts = layer.experts.to(torch.float32)
    gate, up, down = zip(*(experts[e] for e in used.tolist()), strict=True)
    w = layer.wrapper
    loras, scaling = layer.loras, 1.0
    if loras is None:
        shapes = lora_shapes(len(used), w.hidden_size, w.moe_intermediate_size, 1)
        loras = {name: torch.zeros(shape) for name, shape in shapes.items()}
    else:
        loras, scaling = {n: loras[n][used].float() for n in LORA_NAMES}, w.lora_scaling
    return moe_sft_torch_forward(
        batch.hidden_states[:tokens].float(),
        torch.searchsorted(used, ids),
        batch.weights[:tokens],
        gate,
        up,
        down,
        *loras.values(),
        scaling,
    )


def within(name: str, errors: list[float], limit: float) -> bool:
    """Prints the errors of one result and whether each is below the limit."""
    passed = all(error < limit for error in errors)
    print(
        f"{name:<37} error mean {100 * statistics.fmean(errors):.4g}%, worst "
        f"{100 * max(errors):.4g}%, limit {100 * limit:g}%: {'passed' if passed else 'FAILED'}"
    )
    return passed


def timed(step: Callable[[], list[float]], options: argparse.Namespace, name: str):
    """Columns of what `step` returns, one value per timed run, after the warm-up."""
    for _ in progress(range(options.warmup), f"{name}, warm-up", "run"):
        step()
    rows = [step() for _ in progress(range(options.repeat), name, "run")]
    return list(zip(*rows, strict=True))


def print_latency(name: str, seconds: Iterable[float], qlen: int) -> None:
    """One line: mean and median in ms, tokens per second of the mean."""
    values = list(seconds)
    mean = statistics.fmean(values)
    print(
        f"{name:<18} {mean * 1e3:10.3f} ms mean {statistics.median(values) * 1e3:10.3f} ms median "
        f"{qlen / mean:12.1f} tokens/s"
    )


def clock(*actions: Callable[[], object]) -> list[float]:
    """Seconds that each action takes, one after the other, and of all together at the end."""
    marks = [time.perf_counter()]
    for action in actions:
        action()
        marks.append(time.perf_counter())
    parts = [after - before for before, after in itertools.pairwise(marks)]
    return [*parts, marks[-1] - marks[0]]
