"""How many experts fit in the memory that is free."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

from kt_kernel import KTMoEWrapper
from kt_kernel.reference import lora_shapes

GB = 1e9
DEEPSEEK_V3_EXPERTS = 256


def choose_expert_num(probe: KTMoEWrapper, options: argparse.Namespace) -> int:
    """256, or the most experts that fit beside what training and the checks need; says which.

    probe: a wrapper that tells what an expert of its method takes (`native.load_first`).
    """
    free, per_expert, rest = available_memory(), _bytes_per_expert(probe, options), _rest(options)
    most = experts_that_fit(free, per_expert, rest)
    if most < options.top_k:
        raise SystemExit(
            f"error: {most} experts fit in the {free / GB:.1f} GB of free memory, "
            f"--top-k {options.top_k} needs as many"
        )
    if most < DEEPSEEK_V3_EXPERTS:
        needed = DEEPSEEK_V3_EXPERTS * per_expert + rest
        print(
            f"{DEEPSEEK_V3_EXPERTS} experts need {needed / GB:.1f} GB and {free / GB:.1f} GB are "
            f"free: running with {most} experts (--expert-num to choose)"
        )
    return most


def experts_that_fit(free: float, per_expert: float, rest: float) -> int:
    """How many experts fit into `free` bytes beside `rest`, at most 256, with 3% left over."""
    return max(0, min(DEEPSEEK_V3_EXPERTS, math.floor((0.97 * free - rest) / per_expert)))


def _bytes_per_expert(probe: KTMoEWrapper, options: argparse.Namespace) -> float:
    """Packed weights, and 12 bytes for each LoRA value.

    The accuracy mode holds the value and its gradient in bf16, their sum and the reference's in
    float32; training holds teacher, student, gradient, two moments and a temporary in bf16.
    """
    adapters = 0
    if probe.mode == "sft":
        shapes = lora_shapes(1, options.hidden_size, options.intermediate_size, options.lora_rank)
        adapters = 12 * sum(map(math.prod, shapes.values()))
    return probe._layer.weight_bytes / probe.num_experts + adapters


def _rest(options: argparse.Namespace) -> float:
    """Everything that does not grow with the number of experts.

    The pool they are windows of (bf16 and float32), one forward's activations, the batches with
    what the reference makes of them, and half a gigabyte for PyTorch and scratch memory.
    """
    pool = 3 * options.hidden_size * options.intermediate_size * 6
    activations = (
        options.qlen * options.top_k * (options.hidden_size + 3 * options.intermediate_size) * 8
    )
    batches = options.iterations * options.qlen * options.hidden_size * 40
    return pool + activations + batches + 0.5 * GB


def available_memory() -> float:
    """Bytes that may still be used: the least of what the system and the control groups leave."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    meminfo = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    groups = Path("/proc/self/cgroup").read_text()
    return min([float(meminfo["MemAvailable"]), *left_in_groups(groups, Path("/sys/fs/cgroup"))])


def left_in_groups(groups: str, root: Path) -> Iterator[float]:
    """What each memory limit on this process leaves; cached files do not count as used.

    groups: the text of /proc/self/cgroup; root: where the groups' files are mounted.
    """
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, limit, usage, cache = root, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top, limit = root / "memory", "memory.limit_in_bytes"
            usage, cache = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):  # in a container only the topmost may exist
            text = folder / limit
            if not folder.is_relative_to(top) or not text.exists() or text.read_text() == "max\n":
                continue
            stat = dict(map(str.split, (folder / "memory.stat").read_text().splitlines()))
            used = int((folder / usage).read_text()) - int(stat[cache])
            yield float(int(text.read_text()) - used)
