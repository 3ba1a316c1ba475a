"""The table of what tools.review.trust found."""

from collections import Counter
from statistics import median

from tabulate import tabulate

from .plants import PLANTS

HEAD = """# How far a review can be trusted

`python -m tools.review.trust` wrote this page. In a clone it plants what a review must find, and
what a review must not take for anything, and reviews each 20 times; where a row says fewer, it was
stopped. A plant is right when the exit code is the wanted one and the report gives the planted rows
the right verdict. Only the rows that a plant could move were measured.
"""


def expected(name: str) -> str:
    """The exit codes that a plant's reviews must have."""
    codes = [step.code for _, step in PLANTS[name].steps]
    return ", ".join("0 or 4" if code is None else str(code) for code in codes)


def line(name: str, runs: list[dict]) -> tuple[str, ...]:
    """Of one plant."""
    codes = Counter(", ".join(map(str, run["codes"])) for run in runs)
    undecided = sum(len(rows) for run in runs for rows in run["undecided"])
    rows = sum(count for run in runs for count in run["rows"])
    return (
        PLANTS[name].what,
        expected(name),
        "; ".join(f"{code} ({times} times)" for code, times in codes.most_common()),
        f"{sum(run['right'] for run in runs)} of {len(runs)}",
        f"{undecided} of {rows}",
        f"{median(run['seconds'] for run in runs):.0f} s",
    )


def markdown(runs: list[dict]) -> str:
    """The page: a table for each machine."""
    columns = ("planted", "exit code wanted", "got", "right", "rows undecided", "median time")
    parts = [HEAD]
    for machine in dict.fromkeys(run["machine"] for run in runs):
        here = [run for run in runs if run["machine"] == machine]
        commits = ", ".join(dict.fromkeys(run["commit"] for run in here))
        lines = [
            line(name, of_plant)
            for name in PLANTS
            if (of_plant := [run for run in here if run["plant"] == name])
        ]
        align = ("left",) * 3 + ("right",) * 3
        table = tabulate(lines, columns, "github", disable_numparse=True, colalign=align)
        parts += [f"## {machine}", "", f"At {commits}.", "", table, ""]
    return "\n".join(parts)
