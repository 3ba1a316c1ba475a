"""What the newest commit did to each row: one of four verdicts, and what the noise lets be seen.

Lower is better everywhere. A row is held against the best level that it has had, so that what
creeps up is seen, and against its ceiling if it has one.
"""

import itertools
import math
from dataclasses import dataclass
from statistics import median

FINE, WORSE, UNDECIDED, NOT_MEASURED = "fine", "worse", "undecided", "not measured"

# The change that counts: of errors and bytes, which no noise touches, of overheads (in their own
# unit), and of times and their ratios.
EXACT_CHANGE, DIFFERENCE, TIME_CHANGE = 0.01, 1.0, 0.10
# Of what tools/review measures: instructions, and times of two commits that took turns, which are
# less noisy than those of a history. A time that grew by less than the floor, in seconds, did not:
# it is what the Python class may cost.
INSTRUCTIONS_CHANGE, TURNS_CHANGE, TURNS_FLOOR = 0.005, 0.05, 20e-6
PAIRS = 20  # of neighbours in the history, at most: noise is that of the present
FEWEST_PAIRS = 3  # below, a row borrows the pairs of its benchmark's other rows
# Of normal noise: the change that one pair in a hundred passes, over the pairs' median change.
FLOOR_OVER_MEDIAN = 2.576 / 0.6745
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


@dataclass(frozen=True)
class Move:
    """A change of a row's level that still stands."""

    at: int  # the first commit (a place in the history) that has the new level
    since: int  # the last measured commit that had the old one
    before: float
    after: float
    change: float


def changes(row):
    """Between neighbours that both have a value."""
    values = [value for _, value in row.numbers][-PAIRS - 1 :]
    return [difference(row, before, after) for before, after in itertools.pairwise(values)]


def difference(row, before, after):
    """The change from one value to the next, as the row is compared."""
    if row.by_difference:
        return after - before
    return after / before - 1 if before else math.copysign(math.inf, after) if after else 0.0


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


def threshold(row):
    """The change that counts."""
    if row.by_difference:
        return DIFFERENCE
    if row.unit == "instructions":
        return INSTRUCTIONS_CHANGE
    return EXACT_CHANGE if row.unit in ("%", "bytes") else TIME_CHANGE


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


def moves(row, floor):
    """The Moves of a row whose noise floor is known, oldest first.

    A level is a value, or the median of up to three where there is noise; then one value alone is
    no level. A move stands while the newest level is on its side of the old one.
    """
    if floor is None:
        return []
    places, values = [i for i, _ in row.numbers], [value for _, value in row.numbers]
    width, least = (1, 1) if floor == 0 else (LEVEL, 2)
    limit = max(threshold(row), floor)
    found = []
    for i in range(1, len(values)):
        old, new = values[max(0, i - width) : i], values[i : i + width]
        if min(len(old), len(new)) < least:
            continue
        change = difference(row, median(old), median(new))
        step = difference(row, values[i - 1], values[i])
        stands = difference(row, median(old), median(values[-width:]))
        if abs(change) > limit and min(step * change, stands * change) > 0 and abs(stands) > limit:
            found.append(Move(places[i], places[i - 1], median(old), median(new), change))
    return largest_of_neighbours(found, width)


def largest_of_neighbours(found, width):
    """One step is seen from several places: the place with the largest change is where it is."""
    kept = []
    for move in found:
        if kept and move.at - kept[-1].at < width and (move.change > 0) == (kept[-1].change > 0):
            if abs(move.change) > abs(kept[-1].change):
                kept[-1] = move
        else:
            kept.append(move)
    return kept


@dataclass(frozen=True)
class Judged:
    """A row with all that is said of it."""

    row: object  # a tools.history.Row
    verdict: Verdict
    moves: list[Move]

    @property
    def cause(self):
        """The largest Move for the worse, or None: it crept, or was never better."""
        worse = [move for move in self.moves if move.change > 0]
        return max(worse, key=lambda move: move.change, default=None)


def judge_all(rows, ceiling_of):
    """Each row Judged; ceiling_of gives the ceiling of a row, or None."""
    return [
        Judged(row, judge(row, floor, ceiling_of(row)), moves(row, floor))
        for row, floor in zip(rows, floors(rows), strict=True)
    ]
