"""The verdict on each row of a review, and the exit code that they make."""

from collections.abc import Iterable
from dataclasses import dataclass

from tools import changes, verdict
from tools.limits import ceiling
from tools.verdict import FINE, NOT_MEASURED, UNDECIDED, WORSE, Verdict

from .names import PRECISION, Name
from .outcome import Outcome, both, unmeasured

NO_VERDICT = "no verdict"  # both sides run the same code: the difference is this run's noise


@dataclass(frozen=True)
class Judged:
    """A row with all that the report says of it."""

    name: Name
    base: Outcome
    head: Outcome
    verdict: Verdict


def exact(name: Name, base: Outcome, head: Outcome) -> Judged:
    """Of a row that no noise touches; the spread of its samples says whether that is so."""
    if missing := unmeasured(base, head):
        return Judged(name, base, head, Verdict(NOT_MEASURED, missing))
    row = name.row(base.value, head.value)
    found = verdict.judge(row, 0.0, ceiling(row))
    change = changes.difference(row, base.value, head.value) if both(base, head) else None
    floor = max(base.spread, head.spread)
    state, why = found.state, found.why
    if found.change is not None:  # the base decided, not a ceiling
        why = ""
        hidden = state == WORSE and change <= floor
        if hidden or (state == FINE and floor > changes.threshold(row)):
            state, why = UNDECIDED, "its noise hides the change that counts"
    return Judged(name, base, head, Verdict(state, why, change, floor))


def exit_code(rows: Iterable[Judged]) -> int:
    """0: all fine, 1: precision worse, 2: slower or larger, 3: not measured, 4: undecided.

    The least that applies. What was seen to be worse is worse whatever was not measured, and the
    report names both; undecided is only a warning, and must not hide the others.
    """
    seen = {(row.name.section, row.verdict.state) for row in rows}
    states = {state for _, state in seen}
    if (PRECISION, WORSE) in seen:
        return 1
    if WORSE in states:
        return 2
    if NOT_MEASURED in states or not seen:
        return 3
    return 4 if UNDECIDED in states else 0
