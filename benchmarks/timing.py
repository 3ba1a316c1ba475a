"""How times are taken: asv's settings, and timing several things against each other."""

from collections.abc import Callable
from functools import cache
from statistics import fmean
from time import perf_counter
from typing import Any

import torch

from .case import Case


class TimedCase:
    """Base of the suites that time calls on what is loaded once, mostly a layer.

    A machine's slow spells last for seconds. asv takes the samples in two processes, which its
    `--interleave-rounds` puts far apart in time.
    """

    version = "3"
    repeat = (5, 30, 1.0)  # at least 5 samples, at most 30, after 1 s only as many as must be
    warmup_time = 0.2
    case = None

    def setup(self, *params: str) -> None:
        # asv calls setup before every sample, in the same process: the layer stays.
        if self.case is None:
            self.case = self.load(*params)
        self.prepare()
        read_something_else()

    def load(self, method: str, preset: str) -> Any:
        """What `case` is to be: the loaded layer."""
        return Case(method, preset).load()

    def prepare(self) -> None:
        """What a sample needs and is not timed."""


@cache
def something_else() -> torch.Tensor:
    """128 MiB, more than most processors' last cache holds."""
    return torch.ones(32 << 20)


def read_something_else() -> None:
    """Let PyTorch read other memory, as the rest of a model does between two calls of a layer.

    What the caches keep of the weights from call to call is another part in every process, and
    differs from one to the next by a fifth of the time.
    """
    something_else().sum()


def clock(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = perf_counter()
    function()
    return perf_counter() - start


def ratio(
    ours: Callable[[], object], theirs: Callable[[], object], seconds: float, at_least: int = 2
) -> float:
    """Time of one function over another's, both met by the same slow moments of the machine.

    One call of each warms up. Then they are called in turn, every second turn in reverse order,
    until both bounds are met; the middle half of the turns' ratios is averaged.
    """
    functions = (ours, theirs)
    for function in functions:
        function()
    ratios: list[float] = []
    end = perf_counter() + seconds
    while len(ratios) < at_least or perf_counter() < end:
        order = (0, 1) if len(ratios) % 2 == 0 else (1, 0)
        times = {index: clock(functions[index]) for index in order}
        ratios.append(times[0] / times[1])
    return middle_mean(ratios)


def middle_mean(values: list[float]) -> float:
    """The mean of all but the least and the largest quarter.

    On a shared machine it repeats better than the median: 2.4 and 4.0% where that had 2.6 and 4.2,
    and the ratio of two medians 4.1 and 4.8 (INT8 and INT4 over PyTorch, 2 s in each process).
    """
    cut = len(values) // 4
    return fmean(sorted(values)[cut : len(values) - cut])
