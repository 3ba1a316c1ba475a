"""Times over the number of tokens per expert; where a neighbour is cheaper per token, a cliff."""

from itertools import pairwise
from statistics import median

from benchmarks.case import Case
from benchmarks.inputs import make_batch
from benchmarks.presets import FORMATS, SFT_METHODS, SWEEP
from benchmarks.roofline import PASSES, roof_seconds

from .cells import passes_of
from .turns import take_turns

CLIFF = 1.1  # times as much per token as with fewer, or in all as with more


def measure(rounds: int) -> list[dict]:
    """A point for each method, passes and number of tokens; times in seconds."""
    presets = list(SWEEP.values())
    first = Case(SFT_METHODS[0], presets[0])
    cases = {method: first.another(method).load() for method in SFT_METHODS}
    points = []
    for preset in presets:
        for case in cases.values():
            case.batch = make_batch(preset)
        for passes in PASSES:
            calls = {method: passes_of(case, passes) for method, case in cases.items()}
            what = f"{preset.tokens} tokens per expert, {passes}"
            times = take_turns(calls, rounds, what, pause=0)
            for method, values in times.items():
                point = {"method": method, "passes": passes, "tokens": preset.tokens}
                points.append(point | {"seconds": median(values)})
    return points


def curve(points: list[dict], method: str, passes: str) -> list[tuple[int, float]]:
    """(tokens per expert, seconds) of one line, in order."""
    chosen = (p for p in points if (p["method"], p["passes"]) == (method, passes))
    return sorted((p["tokens"], p["seconds"]) for p in chosen)


def fractions(points: list[dict], limits: dict, method: str, passes: str):
    """(tokens per expert, fraction of the roof) of one line."""
    held = FORMATS[method]
    return [
        (
            tokens,
            roof_seconds(
                SWEEP[f"sweep-{tokens}"], passes, held, limits[held.products], limits["bandwidth"]
            )
            / seconds,
        )
        for tokens, seconds in curve(points, method, passes)
    ]


def cliffs(points: list[dict]) -> list[str]:
    """A line for each pair of neighbours of which one is out of line."""
    lines = []
    for method in SFT_METHODS:
        for passes in PASSES:
            line = curve(points, method, passes)
            for (few, fast), (many, slow) in pairwise(line):
                where = f"{method}, {passes}:"
                worse = slow / many / (fast / few)
                if worse > CLIFF:
                    lines.append(f"{where} a token of {many} costs {worse:.2f} of one of {few}")
                if fast / slow > CLIFF:
                    lines.append(f"{where} {few} tokens take {fast / slow:.2f} of {many}'s time")
    return lines
