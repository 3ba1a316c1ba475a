"""What looks at a row's times say: slower is only what two of them, both sure, agree on."""

import math

import numpy as np

from tools.changes import TURNS_CHANGE, TURNS_FLOOR
from tools.verdict import FINE, NOT_MEASURED, UNDECIDED, WORSE, Verdict

from .outcome import both, unmeasured
from .speed import Timed, control

RESAMPLES, CONFIDENCE = 4000, 0.99
TRIMMED = 6  # of the sorted rounds one in so many is left out at both ends
LIMIT = math.log1p(TURNS_CHANGE)


def trimmed_mean(rounds: np.ndarray) -> np.ndarray:
    """Along the last axis, without the extremes: one round that was disturbed is no change."""
    cut = rounds.shape[-1] // TRIMMED
    return np.sort(rounds, axis=-1)[..., cut : rounds.shape[-1] - cut].mean(axis=-1)


def interval(changes: list[float]) -> tuple[float, float, float]:
    """Of the rounds' changes: the trimmed mean, and the bounds of its bootstrap interval."""
    rounds = np.asarray(changes)
    draws = np.random.default_rng(1).choice(rounds, (RESAMPLES, len(rounds)))
    low, high = np.quantile(trimmed_mean(draws), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(trimmed_mean(rounds)), float(low), float(high)


def still(timed: Timed) -> bool:
    """Whether a control says that the machine was the same for both sides."""
    if timed.missing != (None, None):
        return False
    middle, _, _ = interval(timed.changes)
    return abs(middle) < LIMIT


def glance(timed: Timed, machine_still: bool) -> Verdict:
    """What one look says of a row."""
    base, head = timed.outcome(0), timed.outcome(1)
    if missing := unmeasured(base, head):
        return Verdict(NOT_MEASURED, missing)
    if not both(base, head):
        return Verdict(UNDECIDED, "nothing to compare with: its first value")
    middle, low, high = interval(timed.changes)
    change, floor = math.expm1(middle), math.expm1((high - low) / 2)
    if not machine_still:
        return Verdict(UNDECIDED, "PyTorch's own time moved: so did the machine", change, floor)
    if high <= LIMIT or base.value * math.expm1(high) <= TURNS_FLOOR:
        return Verdict(FINE, "", change, floor)
    if low > LIMIT and base.value * math.expm1(low) > TURNS_FLOOR:
        return Verdict(WORSE, "", change, floor)
    return Verdict(UNDECIDED, "its noise hides the change that counts", change, floor)


def glances(look: dict[str, Timed]) -> dict[str, Verdict]:
    """A Verdict for each row of a look, controls left out."""
    controls = {preset: control(preset).whole for preset in {t.name.preset for t in look.values()}}
    return {
        whole: glance(timed, still(look[controls[timed.name.preset]]))
        for whole, timed in look.items()
        if whole not in controls.values()
    }


def again(first: Verdict) -> bool:
    """Whether a first look asks for a second."""
    return first.state in (WORSE, UNDECIDED)


def settle(first: Verdict, second: Verdict) -> Verdict:
    """Of a first look that asked for a second."""
    if second.state in (first.state, NOT_MEASURED):
        return second
    if (first.state, second.state) == (UNDECIDED, FINE):
        return second
    return Verdict(UNDECIDED, "slower in one look of two", second.change, second.floor)
