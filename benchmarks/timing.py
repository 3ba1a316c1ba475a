"""How times are taken: asv's settings, and timing several things against each other."""

from collections.abc import Callable
from statistics import median
from time import perf_counter

from .case import Case

SLOW = 2.0


class TimedCase:
    """Base of the suites that time calls on a loaded layer, which is made once."""

    version = "2"
    repeat = (5, 30, 1.0)  # at least 5 samples, at most 30, after 1 s only as many as must be
    warmup_time = 0.2
    case = None

    def setup(self, method: str, preset: str) -> None:
        # asv calls setup before every sample, in the same process: the layer stays.
        if self.case is None:
            self.case = Case(method, preset).load()


def clock(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = perf_counter()
    function()
    return perf_counter() - start


def interleave(
    functions: list[Callable[[], object]], seconds: float, at_least: int = 2
) -> list[float]:
    """Median time of each function in seconds, all met by the same slow moments of the machine.

    One call of each warms up. Then they are called in turn, every second turn in reverse order,
    until both bounds are met. A function that took SLOW seconds is not called again: its one call
    is its sample. (PyTorch's bf16 products take minutes at S3 on CPUs without bf16 instructions.)
    """
    samples = [[clock(function)] for function in functions]
    again = [index for index, (first,) in enumerate(samples) if first < SLOW]
    for index in again:
        samples[index].clear()
    end = perf_counter() + seconds
    turn = 0
    while turn < at_least or (again and perf_counter() < end):
        for index in again if turn % 2 == 0 else reversed(again):
            samples[index].append(clock(functions[index]))
        turn += 1
    return [median(values) for values in samples]
