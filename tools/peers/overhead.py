"""What the Python class costs over a call of the extension, both in the same turns."""

from statistics import median

from benchmarks.presets import SFT_METHODS
from benchmarks.wrapper_overhead import WrapperOverhead

from .finding import Finding
from .turns import take_turns

RELATIVE = ("S2", "S3")  # 1% at most
ABSOLUTE = ("quick-compute", "S2", "S3")  # 20 microseconds at most, whatever the size
PERCENT, MICROSECONDS = 1, 20
SECONDS = 2.0


def measure(rounds: int) -> list[Finding]:
    """Of a forward: the median difference of the two calls of a turn."""
    found = []
    for shape in ABSOLUTE:
        for method in SFT_METHODS:
            suite = WrapperOverhead()
            suite.setup(method, shape)
            calls = {"wrapper": suite.case.forward, "native": suite.call}
            what = f"{shape}: wrapper and native, {method}"
            wrapper, native = take_turns(calls, rounds, what, pause=0, seconds=SECONDS).values()
            more = median(a - b for a, b in zip(wrapper, native, strict=True))
            subject = "wrapper over native"
            found.append(Finding(subject, shape, method, 1e6 * more, "us", MICROSECONDS))
            if shape in RELATIVE:
                percent = 100 * more / median(native)
                found.append(Finding(subject, shape, method, percent, "%", PERCENT))
    return found
