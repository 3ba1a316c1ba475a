"""What one side of a row gave."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """A value; None where it failed, NaN where the commit lacks what is measured; and why."""

    value: float | None
    why: str = ""
    spread: float = 0.0  # of the samples that the value is the least of, as a fraction

    @property
    def is_number(self) -> bool:
        """Whether there is a value to compare with."""
        return self.value is not None and math.isfinite(self.value)


def failed(why: str) -> Outcome:
    """Of what has no value, and should have one."""
    return Outcome(None, why)


def lacking(why: str) -> Outcome:
    """Of what the commit does not have, or not yet."""
    return Outcome(math.nan, why)


def both(base: Outcome, head: Outcome) -> bool:
    """Whether there are two values to compare."""
    return base.is_number and head.is_number


def unmeasured(base: Outcome, head: Outcome) -> str:
    """Why the row counts as not measured, or an empty string. A base may lack what is new."""
    if not head.is_number:
        return head.why
    return f"base: {base.why}" if base.value is None else ""
