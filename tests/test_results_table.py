"""The table that `make bench` prints."""

import math
import re

from asv.benchmarks import Benchmarks
from asv.config import Config

from tools import results_table
from tools.results_table import Measured


def make_benchmarks():
    shape = {"version": "1", "unit": "seconds", "type": "time"}
    speed = {
        **shape,
        "name": "forward.Forward.time_forward",
        "params": [["'M'"], ["'quick-a'", "'S1'"]],
        "param_names": ["method", "preset"],
    }
    overhead = {
        **speed,
        "name": "wrapper.Wrapper.track_overhead",
        "unit": "%",
        "compare_by": "difference",
    }
    return Benchmarks(Config(), [speed, overhead], regex="'quick-")


class FakeResults:
    """As asv.results.Results answers."""

    def __init__(self, values, stats=None):
        self.values, self.stats = values, stats or {}

    def get_result_keys(self, benchmarks):
        return set(self.values) & set(benchmarks)

    def get_result_value(self, name, params):
        return self.values[name]

    def get_result_stats(self, name, params):
        return self.stats.get(name, [None] * len(self.values[name]))


def test_rows_are_the_chosen_ones_beside_the_commit_before():
    forward, overhead = "forward.Forward.time_forward", "wrapper.Wrapper.track_overhead"
    stats = [{"ci_99_a": 0.9e-3, "ci_99_b": 1.1e-3}] * 2
    now = FakeResults({forward: [1.0e-3, 5.0], overhead: [0.5, 9.0]}, {forward: stats})
    before = FakeResults({forward: [0.8e-3, 5.0]})
    rows = results_table.make_rows(make_benchmarks(), now, before)
    assert [(r.suite, r.metric, r.method, r.preset) for r in rows] == [
        ("Forward", "time_forward", "M", "quick-a"),
        ("Wrapper", "track_overhead", "M", "quick-a"),
    ]
    assert rows[0].now == Measured(1.0e-3, (0.9e-3, 1.1e-3))
    assert rows[0].before == Measured(0.8e-3)
    assert rows[1].now.value == 0.5
    assert math.isnan(rows[1].before.value)
    table = results_table.format_table(rows).splitlines()
    assert re.fullmatch(r"Forward +time_forward +M +quick-a +1\.00ms +\+25\.0%", table[2])
    assert re.fullmatch(r"Wrapper +track_overhead +M +quick-a +0\.5 % *", table[3])


def change(now, before, by_difference=False):
    row = results_table.Row("s", "m", "", "", "%", by_difference, now, before)
    return results_table.format_change(row)


def test_changes():
    assert change(Measured(2.0), Measured(4.0)) == "-50.0%"
    assert change(Measured(2.0, (1, 3)), Measured(4.0, (3, 5))) == "-50.0% ~"
    assert change(Measured(2.0, (1, 2.9)), Measured(4.0, (3, 5))) == "-50.0%"
    assert change(Measured(0.3), Measured(-0.1), by_difference=True) == "+0.4 %"
    assert change(Measured(0.3), Measured(0.0)) == "+0.3 %"
    assert change(Measured(None), Measured(4.0)) == ""
    assert change(Measured(2.0), Measured()) == ""


def test_values():
    write = results_table.format_value
    assert write(Measured(None), "seconds") == "failed"
    assert write(Measured(), "seconds") == "n/a"
    assert write(Measured(0.25159), "%") == "0.2516 %"
    assert write(Measured(2.00154), "bytes") == "2.002 bytes"
    assert write(Measured(300e6), "bytes") == "300M"
