"""Rows of asv's suites that no noise touches: errors, and memory."""

import sys
import tempfile
from collections.abc import Callable, Iterable

from tools.child import Child, ChildEndedError, ChildError

from .builds import Build
from .names import BYTES, Name
from .outcome import Outcome, failed, lacking

# Of one row of memory at a small preset, the least counts: the heap's rounding and what a library
# touches late only add. At full size they are nothing beside the weights.
SAMPLES = 3


def measure(build: Build, names: Iterable[Name], tick: Callable[[], object]) -> dict[str, Outcome]:
    """An Outcome for each row of one side; `tick` is called after each."""
    found: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as scratch:
        worker = Child(
            sys.executable,
            ["-P", "-m", "tools.review.suites_worker"],
            [str(build.package)],
            build.environment(),
            scratch,
        )
        try:
            for name in names:
                found[name.whole] = sampled(worker, name)
                tick()
        finally:
            worker.close()
    return found


def sampled(worker: Child, name: Name) -> Outcome:
    """The least of the row's samples."""
    values = []
    small = name.section == BYTES and name.preset.startswith("quick-")
    for _ in range(SAMPLES if small else 1):
        try:
            answer = worker.ask(name.whole)
        except ChildEndedError as error:
            return failed(f"no benchmark runs: {error}")
        except ChildError as error:
            return failed(str(error))
        if "failed" in answer:
            return failed(answer["failed"])
        if "lacking" in answer:
            return lacking(answer["lacking"])
        values.append(answer["value"])
    least = min(values)
    return Outcome(least, spread=max(values) / least - 1 if least else 0.0)
