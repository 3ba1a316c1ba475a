"""A measurement beside the table's cells, and the bar that it is held to."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """`bar` is the most that `value` may be, or the least where `at_least`; None: no bar."""

    subject: str
    where: str
    method: str
    value: float
    unit: str
    bar: float | None = None
    at_least: bool = False

    @property
    def missed(self) -> bool:
        """Whether the value is on the wrong side of its bar."""
        if self.bar is None:
            return False
        return self.value < self.bar if self.at_least else self.value > self.bar
