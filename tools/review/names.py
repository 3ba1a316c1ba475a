"""A row's name, as asv has it: module.Suite.metric('method', 'preset'). What follows from it."""

import re
from dataclasses import dataclass

from tools.history import Measured, Row

PRECISION, BYTES, INSTRUCTIONS, SPEED = "precision", "bytes", "instructions", "speed"
SECTIONS = (PRECISION, BYTES, INSTRUCTIONS, SPEED)
SUITES = {
    "RelativeError": PRECISION,
    "Memory": BYTES,
    "Instructions": INSTRUCTIONS,
    "Speed": SPEED,
}
UNITS = {PRECISION: "%", BYTES: "bytes", INSTRUCTIONS: "instructions", SPEED: "x"}
NAME = re.compile(r"([\w.]+\.(\w+)\.(\w+))\('(\w+)', '([\w-]+)'\)")


@dataclass(frozen=True)
class Name:
    """The parts of a row's name."""

    whole: str
    benchmark: str
    suite: str
    metric: str
    method: str
    preset: str

    @property
    def section(self) -> str:
        """Which of SECTIONS the row is in."""
        return SUITES[self.suite]

    def row(self, base: float | None, head: float | None) -> Row:
        """The row with the two commits' values."""
        params = (("method", repr(self.method)), ("preset", repr(self.preset)))
        points = (Measured(base), Measured(head))
        return Row(self.benchmark, params, UNITS[self.section], False, points)


def parse(whole: str) -> Name:
    """The Name; ValueError where it is none, or of a suite that no review knows."""
    found = NAME.fullmatch(whole)
    if not found or found[2] not in SUITES:
        suites = ", ".join(SUITES)
        raise ValueError(
            f"row: got {whole!r}, wanted module.Suite.metric('method', 'preset'), Suite of {suites}"
        )
    return Name(whole, *found.groups())
