"""Which search for change points finds what was planted: `python -m tools.change_points_table`.

Prints the table of docs/history.md: on the same made-up series, the first page's own search
(tools/change_points.py), asv's, and apache-otava's, whose Python is given as an argument because it
wants another numpy than we do (requirements/change_points.txt).
"""

import itertools
import json
import math
import random
import subprocess
import sys

from asv.step_detect import detect_steps
from tabulate import tabulate

from tools import change_points, verdict
from tools.changes import EXACT_CHANGE, TIME_CHANGE
from tools.history import Measured, Row

COMMITS, SERIES = 40, 200
NEAR = 1  # commits between the planted place and the found one that still count as found
EDGE = 3  # commits before the first and after the last place of a step
SMALLEST = {"seconds": TIME_CHANGE, "%": EXACT_CHANGE}  # change that is reported

OTAVA = """
import json, sys
from otava.analysis import compute_change_points
for line in sys.stdin:
    values, smallest = json.loads(line)
    found, _ = compute_change_points(values, min_magnitude=smallest)
    print(json.dumps([int(point.index) for point in found]))
"""


def level(draw, *steps):
    """Places and factors of steps as values without noise, with the places; nothing is drawn."""
    values = [1.0] * COMMITS
    for place, factor in steps:
        values[place:] = [value * factor for value in values[place:]]
    return values, [place for place, _ in steps]


def somewhere(draw):
    """A place with EDGE commits on either side."""
    return draw.randrange(EDGE, COMMITS - EDGE + 1)


def one_step(factor):
    """A step at any place."""
    return lambda draw: level(draw, (somewhere(draw), factor))


def late_step(draw):
    """A step of 30% that only the last two commits have."""
    return level(draw, (COMMITS - 2, 1.3))


def two_steps(draw):
    """30% up, and 10 commits later 30% more."""
    place = draw.randrange(EDGE, COMMITS - 10 - EDGE)
    return level(draw, (place, 1.3), (place + 10, 1.3))


def up_and_down(draw):
    """30% up for 10 commits."""
    place = draw.randrange(EDGE, COMMITS - 10 - EDGE)
    return level(draw, (place, 1.3), (place + 10, 1 / 1.3))


def drift(length):
    """0.9% a commit over the last ones, which no single commit did."""
    creeping = [1.009 ** (i + 1) for i in range(length)]
    return lambda draw: ([1.0] * (COMMITS - length) + creeping, [])


def outliers(draw):
    """No step, and three commits apart from each other at half as much again."""
    values, _ = level(draw)
    for third in range(3):
        values[draw.randrange(10) + 13 * third] *= 1.5
    return values, []


PLANTED = {  # what it is called, its series, the noise (a standard deviation), the row's unit
    "nothing, noise 3%": (level, 0.03, "seconds"),
    "nothing, noise 10%": (level, 0.10, "seconds"),
    "three outliers, noise 3%": (outliers, 0.03, "seconds"),
    "drift of 0.9% over each of 8 commits, exact": (drift(8), 0, "%"),
    "drift of 0.9% over each of 20, noise 3%": (drift(20), 0.03, "seconds"),
    "step of 1.5%, exact": (one_step(1.015), 0, "%"),
    "step of 12%, noise 1%": (one_step(1.12), 0.01, "seconds"),
    "step of 15%, noise 3%": (one_step(1.15), 0.03, "seconds"),
    "step of 30%, noise 3%": (one_step(1.3), 0.03, "seconds"),
    "step of 30%, noise 10%": (one_step(1.3), 0.10, "seconds"),
    "step of 100%, noise 10%": (one_step(2), 0.10, "seconds"),
    "step of 30% on the last two, noise 3%": (late_step, 0.03, "seconds"),
    "two steps of 30%, noise 3%": (two_steps, 0.03, "seconds"),
    "30% up, 10 commits later down": (up_and_down, 0.03, "seconds"),
}


def ours(series, unit):
    """Places that tools.change_points.moves finds."""
    row = Row("a.B.c", (), unit, False, tuple(map(Measured, series)))
    (floor,) = verdict.floors([row])
    return [move.at for move in change_points.moves(row, floor)]


def asvs(series, unit):
    """Places that asv's search finds, but for changes too small to report."""
    steps = detect_steps(series)
    return [
        after[0]
        for before, after in itertools.pairwise(steps)
        if abs(after[2] / before[2] - 1) > SMALLEST[unit]
    ]


def otavas(python, all_series):
    """Places that apache-otava finds, for each series and its unit."""
    lines = "\n".join(json.dumps([series, SMALLEST[unit]]) for series, unit in all_series)
    command = [python, "-W", "ignore", "-c", OTAVA]
    done = subprocess.run(command, input=lines, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def score(found, places):
    """How many of the planted places were found, and how many were found that nobody planted."""
    left, hits = list(found), 0
    for place in places:
        near = [at for at in left if abs(at - place) <= NEAR]
        hits += bool(near)
        for at in near[:1]:
            left.remove(at)
    return hits, len(left)


def make_series(name):
    """SERIES of them, each with its planted places and its unit; the same at every call."""
    plant, noise, unit = PLANTED[name]
    draw = random.Random(name)
    made = []
    for _ in range(SERIES):
        values, places = plant(draw)
        made.append(([v * math.exp(draw.gauss(0, noise)) for v in values], places, unit))
    return made


def main():
    """Print the table."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.change_points_table PYTHON_WITH_OTAVA")
    lines = []
    for name in PLANTED:
        made = make_series(name)
        found = {
            "ours": [ours(series, unit) for series, _, unit in made],
            "asv": [asvs(series, unit) for series, _, unit in made],
            "otava": otavas(sys.argv[1], [(series, unit) for series, _, unit in made]),
        }
        planted = sum(len(places) for _, places, _ in made)
        line = [name, planted]
        for places_found in found.values():
            pairs = [score(f, m[1]) for f, m in zip(places_found, made, strict=True)]
            hits, others = (sum(column) for column in zip(*pairs, strict=True))
            line += [f"{hits / planted:.0%}" if planted else "", others]
        lines.append(line)
    heads = ["planted", "steps", "ours", "false", "asv", "false", "otava", "false"]
    print(tabulate(lines, headers=heads, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
