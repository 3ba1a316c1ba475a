"""Times of base and head, taking turns: base, head, head, base, a fixed number of rounds.

Both sides' processes live through all rounds. A turn is one call: the shorter the turns, the fewer
changes of the machine fall between two sides that are compared. A row's rounds are spread over the
whole look, so that a slow minute is in a few rounds of all rows, and in all rounds of none.
"""

import math
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from statistics import median

from tools.child import Child, ChildEndedError, ChildError

from .builds import Build
from .names import Name, parse
from .outcome import Outcome, failed, lacking

METRICS = ("time_forward", "time_training_step")
PRESETS = ("quick-compute", "quick-memory")
ROUNDS = 80
PATIENCE = 120  # seconds for an answer: the first loads a layer
# A call of each side, which finds the caches as another row left them and is not counted; then
# base, head, head, base, and its mirror: else only head would be called twice running. Every other
# round is the other side's, since what the caches still hold depends on which calls went before:
# the second side was 6 to 8% faster in all rows of quick-memory, PyTorch's product among them, on a
# 2-core guest of an Intel Xeon with AMX, whichever process that was.
WARM_UP = (0, 1)
TURNS = (0, 1, 1, 0, 1, 0, 0, 1)


@dataclass
class Timed:
    """A row's rounds in one look."""

    name: Name
    changes: list[float] = field(default_factory=list)  # of each round: log of head over base
    seconds: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    missing: tuple[Outcome | None, Outcome | None] = (None, None)  # why a side has no times

    def add(self, turns: list[tuple[int, float | None]]) -> None:
        """A round: each turn's side and seconds; None: no time."""
        sides: tuple[list[float], list[float]] = [], []
        for side, seconds in turns:
            if seconds is not None:
                sides[side].append(math.log(seconds))
                self.seconds[side].append(seconds)
        if all(seconds is not None for _, seconds in turns):
            self.changes.append((sum(sides[1]) - sum(sides[0])) / len(sides[0]))

    def outcome(self, side: int) -> Outcome:
        """Median seconds, or why there are none."""
        return self.missing[side] or Outcome(median(self.seconds[side]))


def control(preset: str) -> Name:
    """The row that no commit can move."""
    return parse(f"review.Speed.time_control('PyTorch', '{preset}')")


def look(
    builds: tuple[Build, Build], names: Iterable[Name], tick: Callable[[], object], first: int = 0
) -> dict[str, Timed]:
    """Each row's rounds, and those of the presets' controls; `tick` is called after each round.

    `first` is the side that begins the first round, and so loads each layer before the other does.
    """
    names = list(names)
    names += map(control, dict.fromkeys(name.preset for name in names))
    found = {name.whole: Timed(name) for name in names}
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        workers = [stack.enter_context(closing(start(build, scratch))) for build in builds]
        for number in range(ROUNDS):
            for name in names:
                timed = found[name.whole]
                if timed.missing == (None, None):
                    measure(workers, name, timed, first ^ number % 2)
                tick()
    return found


def start(build: Build, scratch: str) -> Child:
    """One side's process."""
    return Child(
        sys.executable,
        ["-P", "-m", "tools.review.speed_worker"],
        [str(build.package)],
        build.environment(),
        scratch,
        PATIENCE,
    )


def measure(workers: list[Child], name: Name, timed: Timed, first: int = 0) -> None:
    """A round of one row. Without one side's time it is the last."""
    order = [side ^ first for side in WARM_UP + TURNS]
    answers: list[float | None] = [None] * len(order)
    missing: list[Outcome | None] = [None, None]
    for turn, side in enumerate(order):
        if missing[side] is None:
            try:
                answers[turn] = workers[side].ask(name.metric, name.method, name.preset)
                if answers[turn] is None:
                    missing[side] = lacking("not in this commit")
            except ChildEndedError as error:
                missing[side] = failed(f"no benchmark runs: {error}")
            except ChildError as error:
                missing[side] = failed(str(error))
    timed.add(list(zip(order, answers, strict=True))[len(WARM_UP) :])
    timed.missing = (missing[0], missing[1])
