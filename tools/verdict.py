"""What the newest commit did to each row: one of four verdicts, and what the noise lets be seen.

Lower is better everywhere. A row is held against the best level that it has had, so that what
creeps up is seen, and against its ceiling if it has one.
"""

import itertools
import math
from dataclasses import dataclass, replace
from statistics import median

from tools.change_points import Move, moves
from tools.changes import difference, threshold

FINE, WORSE, UNDECIDED, NOT_MEASURED = "fine", "worse", "undecided", "not measured"

PAIRS = 20  # of neighbours in the history, at most: noise is that of the present
FEWEST_PAIRS = 3  # below, a row borrows the pairs of its benchmark's other rows
# Of normal noise: the change that one pair in a hundred passes, over the pairs' median change.
FLOOR_OVER_MEDIAN = 2.576 / 0.6745
CONTROL = "Control"  # the suite of what no commit touches
LEVEL = 3  # values whose median is a level, where there is noise


@dataclass(frozen=True)
class Verdict:
    """Of the newest commit on one row.

    Changes and floors are fractions, or in the row's unit if it is compared by difference.
    """

    state: str
    why: str = ""
    change: float | None = None  # against the best level before
    floor: float | None = None  # the change that noise alone passes once in a hundred; 0: exact


def changes(row):
    """Between neighbours that both have a value."""
    values = [value for _, value in row.numbers][-PAIRS - 1 :]
    return [difference(row, before, after) for before, after in itertools.pairwise(values)]


def floors(rows):
    """The noise floor of each row, in their order; None where too little was measured.

    It is the larger of two. The history's: neighbours mostly differ by noise alone, and the median
    forgets the few commits that changed something. And the run's own: asv's 99% interval of the
    newest timing.
    """
    pooled = {}
    for row in rows:
        pooled.setdefault(row.benchmark, []).extend(map(abs, changes(row)))
    return [floor_of(row, pooled[row.benchmark]) for row in rows]


def floor_of(row, pooled):
    """As floors says; pooled: the changes of all rows of the benchmark."""
    own = [abs(change) for change in changes(row)]
    pairs = own if len(own) >= FEWEST_PAIRS else pooled
    found = [FLOOR_OVER_MEDIAN * median(pairs)] if len(pairs) >= FEWEST_PAIRS else []
    newest = row.points[-1]
    if newest.is_number and newest.interval and all(map(math.isfinite, newest.interval)):
        low, high = newest.interval
        found.append(high - low if row.by_difference else (high - low) / newest.value)
    return max(found, default=None)


def best_level(values, exact):
    """The least value, or the least median of neighbours where values have noise."""
    if exact:
        return min(values)
    windows = range(max(1, len(values) - LEVEL + 1))
    return min(median(values[i : i + LEVEL]) for i in windows)


def judge(row, floor, ceiling=None):
    """The Verdict on a row's newest point; ceiling: what its value may never pass, or None."""
    newest = row.points[-1]
    if not newest.is_number:
        return Verdict(NOT_MEASURED, "failed" if newest.value is None else "n/a", floor=floor)
    before = [value for i, value in row.numbers if i < len(row.points) - 1]
    if ceiling is not None and newest.value > ceiling:
        return Verdict(WORSE, f"over its ceiling of {ceiling:.4g} {row.unit}", floor=floor)
    if not before:
        held = ceiling is not None
        return Verdict(
            FINE if held else UNDECIDED, "nothing to compare with: its first value", floor=floor
        )
    best = best_level(before, floor == 0)
    change, counts = difference(row, best, newest.value), threshold(row)
    if floor is None:
        return Verdict(UNDECIDED, "its noise is not known yet", change)
    if change > max(counts, floor):
        seen_before = floor > 0 and difference(row, best, before[-1]) > max(counts, floor)
        if floor == 0 or seen_before:
            return Verdict(WORSE, "than its best level", change, floor)
        return Verdict(UNDECIDED, "slower once: the next commit tells", change, floor)
    if floor > counts:
        return Verdict(UNDECIDED, "its noise hides the change that counts", change, floor)
    return Verdict(FINE, "", change, floor)


@dataclass(frozen=True)
class Judged:
    """A row with all that is said of it."""

    row: object  # a tools.history.Row
    verdict: Verdict
    moves: list[Move]

    @property
    def cause(self):
        """The largest Move for the worse, or None: it crept, or was never better."""
        worse = [move for move in self.moves if move.stands and move.change > 0]
        return max(worse, key=lambda move: move.change, default=None)


def judge_all(rows, ceiling_of):
    """Each row Judged; ceiling_of gives the ceiling of a row, or None."""
    verdicts = [
        judge(row, floor, ceiling_of(row)) for row, floor in zip(rows, floors(rows), strict=True)
    ]
    slow = slowdown(rows, verdicts)
    return [
        Judged(row, without_slowdown(row, found, slow), moves_of(row, found))
        for row, found in zip(rows, verdicts, strict=True)
    ]


def slowdown(rows, verdicts):
    """The largest change of a control that noise does not explain; 0: the machine is as it was."""
    found = [
        one.change
        for row, one in zip(rows, verdicts, strict=True)
        if row.suite == CONTROL and None not in (one.change, one.floor)
        if one.change > max(threshold(row), one.floor)
    ]
    return max(found, default=0.0)


def without_slowdown(row, found, slow):
    """A row's Verdict: a time that grew no more than the control's cannot be called slower."""
    if row.unit != "seconds" or found.state != WORSE:
        return found
    if (1 + found.change) / (1 + slow) - 1 > max(threshold(row), found.floor):
        return found
    why = f"no more than PyTorch's product ({slow:+.0%}): the machine was slow"
    return replace(found, state=UNDECIDED, why=why)


def moves_of(row, found):
    """The row's Moves; none where no commit can be the cause."""
    return [] if row.suite == CONTROL else moves(row, found.floor)
