"""What the Python class costs over the extension: the part of a call that is not in the extension.

Two calls one after the other, by the class and by the extension, differ by more than that on a
machine that others use (`benchmarks/wrapper_overhead.py`). Inside of one call nothing else counts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from time import perf_counter

from benchmarks.case import Case, native
from benchmarks.presets import SFT_METHODS

from .finding import Finding
from .turns import take_turns

LARGE = ("S2", "S3")
SMALL = ("quick-compute",)  # where a call is short enough for microseconds to show
PERCENT, MICROSECONDS = 1, 20  # at most, on large and on small layers
SECONDS = 2.0


@contextmanager
def timed_extension() -> Iterator[list[float]]:
    """Seconds of every forward of the extension from here on, by whoever calls it."""
    layer, times = native().Layer, []
    forward = layer.forward

    def timed(*arguments):
        start = perf_counter()
        forward(*arguments)
        times.append(perf_counter() - start)

    layer.forward = timed
    try:
        yield times
    finally:
        layer.forward = forward


def measure(rounds: int) -> list[Finding]:
    """Of a forward: the median of what the extension does not take."""
    found = []
    for shape in SMALL + LARGE:
        for method in SFT_METHODS:
            case = Case(method, shape).load()
            with timed_extension() as inside:

                def outside(case=case, inside=inside) -> float:
                    start = perf_counter()
                    case.forward()
                    return perf_counter() - start - inside[-1]

                what = f"{shape}: the class over the extension, {method}"
                calls = {"outside": outside}
                more = median(take_turns(calls, rounds, what, pause=0, seconds=SECONDS)["outside"])
            value = 1e6 * more, "us", MICROSECONDS
            if shape in LARGE:
                value = 100 * more / median(inside), "%", PERCENT
            found.append(Finding("wrapper over native", shape, method, *value))
    return found
