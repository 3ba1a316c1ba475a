"""Synthetic layers and batches: the benchmarks' own and so the same for every commit."""

from dataclasses import dataclass

import torch

from .presets import Preset

SEED = 1234
# The weights of all experts are read, one after another, from a ring of this many normal numbers.
# Drawing 1.4 billion of them for S2 would take longer than measuring. The length is odd, so that
# the rows of one matrix begin at different numbers.
RING = 2**22 - 3

LORA_NAMES = ["gate_lora_a", "gate_lora_b", "up_lora_a", "up_lora_b", "down_lora_a", "down_lora_b"]


@dataclass
class Batch:
    """What a step is called with. T tokens, H hidden, k experts per token."""

    hidden_states: torch.Tensor  # [T, H] bf16
    expert_ids: torch.Tensor  # [T, k] int64
    weights: torch.Tensor  # [T, k] float32, each row sums to 1
    grad_output: torch.Tensor  # [T, H] bf16


def make_batch(preset: Preset) -> Batch:
    """Normal activations and balanced routing: the experts are dealt in a shuffled round."""
    generator = torch.Generator().manual_seed(SEED)
    tokens, k = preset.tokens, preset.top_k
    hidden_states = torch.randn(tokens, preset.hidden, generator=generator).bfloat16()
    grad_output = torch.randn(tokens, preset.hidden, generator=generator).bfloat16()
    order = torch.randperm(preset.experts, generator=generator)
    expert_ids = order[torch.arange(tokens * k) % preset.experts].reshape(tokens, k).contiguous()
    weights = torch.randn(tokens, k, generator=generator).softmax(-1).contiguous()
    return Batch(hidden_states, expert_ids, weights, grad_output)


def make_lora(preset: Preset) -> list[torch.Tensor]:
    """The six bf16 tensors in the order of LORA_NAMES; B is not zero, as after some training."""
    generator = torch.Generator().manual_seed(SEED + 1)
    experts, rank, hidden, inter = (
        preset.experts,
        preset.lora_rank,
        preset.hidden,
        preset.intermediate,
    )

    def normal(rows: int, columns: int, std: float) -> torch.Tensor:
        return (torch.randn(experts, rows, columns, generator=generator) * std).bfloat16()

    gate_a, gate_b = normal(rank, hidden, hidden**-0.5), normal(inter, rank, 0.05)
    up_a, up_b = normal(rank, hidden, hidden**-0.5), normal(inter, rank, 0.05)
    down_a, down_b = normal(rank, inter, inter**-0.5), normal(hidden, rank, 0.05)
    return [gate_a, gate_b, up_a, up_b, down_a, down_b]


def make_weights(preset: Preset) -> list[list[torch.Tensor]]:
    """Gate and up [I, H] and down [H, I] of every expert in bf16, of deviation 1 / sqrt(columns).

    They are views of the ring: S2's 2.8 GB took every row's process two seconds to make.
    """
    ring = torch.randn(RING, generator=torch.Generator().manual_seed(SEED + 2))
    experts, hidden, inter = preset.experts, preset.hidden, preset.intermediate
    size = inter * hidden
    start = 0

    def read(source: torch.Tensor, rows: int, columns: int) -> list[torch.Tensor]:
        nonlocal start
        found = []
        for _ in range(experts):
            found.append(source[start : start + size].view(rows, columns))
            start = (start + size) % RING
        return found

    def source(columns: int) -> torch.Tensor:
        """The ring, and its beginning once more, so that a matrix may start anywhere in it."""
        return (ring * columns**-0.5).bfloat16().repeat(2 + size // RING)

    across, back = source(hidden), source(inter)
    return [read(across, inter, hidden), read(across, inter, hidden), read(back, hidden, inter)]


def stacked(weights: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """Gate and up [E, I, H] and down [E, H, I], in memory of their own."""
    return [torch.stack(matrices) for matrices in weights]
