"""The rows that asv measured for a commit, beside those of the commit before, as a table."""

import itertools
from dataclasses import dataclass

from asv import util
from tabulate import tabulate

from tools.history import Measured, measured


@dataclass(frozen=True)
class Row:
    """A benchmark with one choice of its parameters, on two commits."""

    suite: str
    metric: str
    method: str
    preset: str
    unit: str
    by_difference: bool
    now: Measured
    before: Measured


def make_rows(benchmarks, current, before):
    """The selected rows of an asv Benchmarks, with the values of two results.Results (or None)."""
    rows = []
    for name, benchmark in sorted(benchmarks.items()):
        _, suite, metric = name.rsplit(".", 2)
        choices = list(itertools.product(*benchmark["params"]))
        now, then = measured(current, benchmark), measured(before, benchmark)
        selected = benchmarks.benchmark_selection[name]  # None of one without parameters
        for index in [0] if selected is None else selected:
            named = dict(zip(benchmark["param_names"], choices[index], strict=True))
            named = {key: value.strip("'") for key, value in named.items()}  # asv keeps the repr
            rows.append(
                Row(
                    suite=suite,
                    method=named.pop("method", ""),
                    preset=named.pop("preset", ""),
                    metric=", ".join([metric, *named.values()]),
                    unit=benchmark["unit"],
                    by_difference=benchmark.get("compare_by") == "difference",
                    now=now[index],
                    before=then[index],
                )
            )
    return rows


def format_value(measured, unit):
    """The value as a person writes it."""
    if measured.value is None:
        return "failed"
    if not measured.is_number:
        return "n/a"
    if unit == "seconds" or (unit == "bytes" and measured.value >= 1000):
        return util.human_value(measured.value, unit)
    return f"{measured.value:.4g} {unit}"


def format_change(row):
    """The change since the commit before; "~" where the 99% intervals of two timings overlap."""
    now, before = row.now, row.before
    if not now.is_number or not before.is_number:
        return ""
    if row.by_difference or before.value == 0:
        return f"{now.value - before.value:+.2g} {row.unit}"
    change = f"{100 * (now.value / before.value - 1):+.1f}%"
    if now.interval and before.interval:
        low, high = (
            max(now.interval[0], before.interval[0]),
            min(now.interval[1], before.interval[1]),
        )
        change += " ~" if low <= high else ""
    return change


def format_table(rows):
    """All rows, one line each."""
    columns = ("suite", "metric", "method", "preset", "value", "change")
    cells = [
        (r.suite, r.metric, r.method, r.preset, format_value(r.now, r.unit), format_change(r))
        for r in rows
    ]
    align = ("left",) * 4 + ("right",) * 2
    return tabulate(cells, headers=columns, disable_numparse=True, colalign=align)
