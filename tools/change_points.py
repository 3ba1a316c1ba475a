"""Where a row's level moved, over its whole history.

The levels are what asv's solver makes of the values: constant between steps, with the least sum of
distances from the values plus a price for each step. asv guesses the price from the series itself
and misses half of what a short one shows; here it follows from the noise that is known. The two,
and apache-otava, are compared on planted series in docs/history.md.
"""

import itertools
import math
from dataclasses import dataclass
from statistics import median

from asv.step_detect import solve_potts_approx

from tools.changes import FLOOR_OVER_DEVIATION, difference, threshold

PRICE = 8  # of a step, in standard deviations of one value: nothing is found in noise of 10%
FEWEST = 2  # values of a level, where there is noise


@dataclass(frozen=True)
class Move:
    """A change of a row's level."""

    at: int  # the first commit (a place in the history) that has the new level
    since: int  # the last measured commit that had the old one
    before: float
    after: float
    change: float
    stands: bool  # whether the newest level is still on the new one's side


def moves(row, floor):
    """The Moves of a row whose noise floor is known, oldest first."""
    if floor is None or not row.numbers:
        return []
    places, values = zip(*row.numbers, strict=True)
    starts = level_starts(row, values, floor)
    levels = [median(values[a:b]) for a, b in zip(starts, [*starts[1:], len(values)], strict=True)]
    found, limit = [], threshold(row)
    for start, (before, after) in zip(starts[1:], itertools.pairwise(levels), strict=True):
        change, now = difference(row, before, after), difference(row, before, levels[-1])
        if abs(change) > limit:
            stands = now * change > 0 and abs(now) > limit
            found.append(Move(places[start], places[start - 1], before, after, change, stands))
    return found


def level_starts(row, values, floor):
    """Where each level begins; where values are exact, each is a level of its own."""
    if floor == 0:
        return list(range(len(values)))
    if len(values) < 2 * FEWEST:
        return [0]
    by_ratio = not row.by_difference and min(values) > 0
    scaled = [math.log(value) for value in values] if by_ratio else list(values)
    price = PRICE * floor / FLOOR_OVER_DEVIATION
    ends, _, _ = solve_potts_approx(scaled, [1] * len(scaled), gamma=price, min_size=FEWEST)
    return [0, *ends[:-1]]
