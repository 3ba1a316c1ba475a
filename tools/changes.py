"""How two values of a row compare: the change between them, and the one that counts."""

import math

# The change that counts: of errors and bytes, which no noise touches, of overheads (in their own
# unit), and of times and their ratios.
EXACT_CHANGE, DIFFERENCE, TIME_CHANGE = 0.01, 1.0, 0.10
# Of what tools/review measures: instructions, and times of two commits that took turns, which are
# less noisy than those of a history. A time that grew by less than the floor, in seconds, did not:
# it is what the Python class may cost.
INSTRUCTIONS_CHANGE, TURNS_CHANGE, TURNS_FLOOR = 0.005, 0.05, 20e-6

# A noise floor is the change between two values that noise alone passes once in a hundred times;
# over the standard deviation of one.
FLOOR_OVER_DEVIATION = 2.576 * math.sqrt(2)


def difference(row, before, after):
    """The change from one value to the next, as the row is compared."""
    if row.by_difference:
        return after - before
    return after / before - 1 if before else math.copysign(math.inf, after) if after else 0.0


def threshold(row):
    """The change that counts."""
    if row.by_difference:
        return DIFFERENCE
    if row.unit == "instructions":
        return INSTRUCTIONS_CHANGE
    return EXACT_CHANGE if row.unit in ("%", "bytes") else TIME_CHANGE
