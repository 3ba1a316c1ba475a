"""What uneven routing costs: as many pairs of token and expert, but not dealt evenly."""

from functools import partial

import torch

from benchmarks.case import Case
from benchmarks.inputs import SEED
from benchmarks.presets import PRESETS, SFT_METHODS, Preset
from benchmarks.roofline import PASSES

from .cells import passes_of
from .finding import Finding
from .turns import ratio, take_turns

# Not S3, where every token goes to every expert.
SHAPES = ("S1", "S2")
LOSS = 15  # percent


def chosen(shape: Preset, popularity: torch.Tensor) -> torch.Tensor:
    """[T, k] ids, drawn for each token without repetition in proportion to popularity [E]."""
    generator = torch.Generator().manual_seed(SEED)
    rows = popularity.expand(shape.tokens, -1)
    return torch.multinomial(rows, shape.top_k, generator=generator)


def routings(shape: Preset) -> dict[str, torch.Tensor]:
    """Expert 0 in every token's choice, the others alike; and the n-th expert 1 / n as often."""
    hot = torch.ones(shape.experts)
    hot[0] = 1e6
    zipf = 1 / torch.arange(1, shape.experts + 1)
    return {"one hot expert": chosen(shape, hot), "Zipf": chosen(shape, zipf)}


def _routed(case: Case, expert_ids: torch.Tensor, call) -> None:
    case.batch.expert_ids = expert_ids
    call()


def measure(rounds: int) -> list[Finding]:
    """Percent by which each routing is slower than the balanced one."""
    found = []
    for shape in SHAPES:
        first = Case(SFT_METHODS[0], PRESETS[shape])
        ids = {"balanced": first.batch.expert_ids} | routings(first.shape)
        for method in SFT_METHODS:
            case = first.another(method).load()
            for passes in PASSES:
                call = passes_of(case, passes)

                calls = {name: partial(_routed, case, ids[name], call) for name in ids}
                times = take_turns(calls, rounds, f"{shape} {passes}: routings of {method}")
                balanced = times.pop("balanced")
                for name, values in times.items():
                    loss = 100 * (ratio(values, balanced) - 1)
                    where = f"{shape} {passes}"
                    found.append(Finding(f"{name} over balanced", where, method, loss, "%", LOSS))
    return found
