"""What the Python class costs over a call of the extension, both in the same turns."""

from statistics import median

from benchmarks.presets import SFT_METHODS
from benchmarks.wrapper_overhead import WrapperOverhead

from .finding import Finding
from .turns import take_turns

LARGE = ("S2", "S3")
SMALL = ("quick-compute",)  # where a call is short enough for microseconds to show
PERCENT, MICROSECONDS = 1, 20  # at most, on large and on small layers
SECONDS = 2.0


def measure(rounds: int) -> list[Finding]:
    """Of a forward: the median difference of the two calls of a turn."""
    found = []
    for shape in SMALL + LARGE:
        for method in SFT_METHODS:
            suite = WrapperOverhead()
            suite.setup(method, shape)
            calls = {"wrapper": suite.case.forward, "native": suite.call}
            what = f"{shape}: wrapper and native, {method}"
            wrapper, native = take_turns(calls, rounds, what, pause=0, seconds=SECONDS).values()
            more = median(a - b for a, b in zip(wrapper, native, strict=True))
            value = 1e6 * more, "us", MICROSECONDS
            if shape in LARGE:
                value = 100 * more / median(native), "%", PERCENT
            found.append(Finding("wrapper over native", shape, method, *value))
    return found
