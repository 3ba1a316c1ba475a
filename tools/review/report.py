"""The review as Markdown: the verdict in one sentence, then each section's table, worst first."""

from collections import Counter
from dataclasses import dataclass

from tabulate import tabulate

from tools.history import Measured
from tools.results_table import format_value
from tools.verdict import FINE, NOT_MEASURED, UNDECIDED, WORSE

from .judge import NO_VERDICT, Judged
from .names import BYTES, INSTRUCTIONS, PRECISION, SECTIONS, SPEED, UNITS
from .outcome import Outcome

LONGEST = 10  # rows that are shown without being asked for
WORD = {
    PRECISION: "less precise",
    BYTES: "larger",
    INSTRUCTIONS: "more instructions",
    SPEED: "slower",
}
ORDER = (WORSE, NOT_MEASURED, UNDECIDED, NO_VERDICT, FINE)


@dataclass(frozen=True)
class Report:
    """All that a review found; `notes` are lines, `log` is what a failing build said."""

    head: str
    base: str
    machine: str
    rows: list[Judged]
    notes: list[str]
    log: str = ""


def counted(number: int, what: str) -> str:
    """1 row, 2 rows."""
    return f"{number} row{'' if number == 1 else 's'} {what}"


def sentence(rows: list[Judged]) -> str:
    """What there is to say, worst first."""
    if not rows:
        return "Nothing was measured."
    states = Counter((row.name.section, row.verdict.state) for row in rows)
    parts = [
        counted(states[section, WORSE], WORD[section])
        for section in SECTIONS
        if states[section, WORSE]
    ]
    for state in ORDER[1:]:
        number = sum(states[section, state] for section in SECTIONS)
        if number:
            parts.append(counted(number, "without a verdict" if state == NO_VERDICT else state))
    return f"{', '.join(parts)}."


def markdown(report: Report) -> str:
    """The whole text."""
    lines = [f"**{sentence(report.rows)}**", "", f"{report.head}, against {report.base}, "]
    lines[-1] += f"on {report.machine}."
    lines += ["", *(f"- {note}" for note in report.notes)] if report.notes else []
    if report.log:
        lines += ["", "```", report.log, "```"]
    for section in SECTIONS:
        rows = [row for row in report.rows if row.name.section == section]
        if rows:
            lines += ["", f"### {section.capitalize()}: {sentence(rows)}", ""]
            lines += tables(sorted(rows, key=badness))
    return "\n".join([*lines, ""])


def badness(row: Judged) -> tuple:
    """By which rows are sorted."""
    change = row.verdict.change
    return ORDER.index(row.verdict.state), -change if change is not None else 0.0


def tables(rows: list[Judged]) -> list[str]:
    """One table; where it is long, the rows that are fine are folded away."""
    if len(rows) <= LONGEST:
        return [table(rows)]
    fine = [row for row in rows if row.verdict.state in (FINE, NO_VERDICT)]
    rest = [row for row in rows if row not in fine]
    lines = [table(rest), ""] if rest else []
    what = f"{len(fine)} more" if rest else f"all {len(fine)}"
    folded = ["<details>", f"<summary>{what}</summary>", "", table(fine), "", "</details>"]
    return lines + (folded if fine else [])


def table(rows: list[Judged]) -> str:
    """Rows as they come."""
    columns = ("row", "before", "after", "ratio", "noise", "verdict")
    align = ("left",) + ("right",) * 4 + ("left",)
    cells = [line(row) for row in rows]
    return tabulate(cells, columns, "github", disable_numparse=True, colalign=align)


def line(row: Judged) -> tuple[str, ...]:
    """The cells of a row."""
    found, name = row.verdict, row.name
    unit = "seconds" if name.section == SPEED else UNITS[name.section]
    digits = 4 if name.section != SPEED else 3
    ratio = "" if found.change is None else f"{1 + found.change:.{digits}f}"
    noise = "" if found.floor is None else f"±{found.floor:.2%}" if found.floor else "exact"
    why = " ".join(found.why.replace("|", "\\|").split())
    verdict = f"**{found.state}**" if found.state in ORDER[:3] else found.state
    return (
        f"{name.suite}.{name.metric} {name.method} {name.preset}",
        value(row.base, unit),
        value(row.head, unit),
        ratio,
        noise,
        f"{verdict}: {why}" if why else verdict,
    )


def value(outcome: Outcome, unit: str) -> str:
    """As a person reads it."""
    if unit == "instructions" and outcome.is_number:
        return f"{outcome.value:,.0f}"
    return format_value(Measured(outcome.value), unit)
