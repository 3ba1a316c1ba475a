"""Two folders of results as one: nothing measured is lost, the later run wins, damage is named."""

import copy
import json
import math
import random

import pytest
from asv_history import BENCHMARKS, REAL

from tools.results.merge import merge, parse, rows

REAL = {**REAL, "version": 2}
OUTPUT = "relative_error.RelativeError.track_output"
FORWARD = "forward.Forward.time_forward"
FILE = "vm/0c7bc6e1-env.json"
COLUMN = {name: place for place, name in enumerate(REAL["result_columns"])}


def changed(edit, later=0):
    """The real result, edited, each benchmark started that many milliseconds later."""
    data = copy.deepcopy(REAL)
    for row in data["results"].values():
        row[COLUMN["started_at"]] += later
    edit(data["results"])
    return data


def folder(data, path=FILE):
    return {path: json.dumps(data).encode()}


def merged(one, other):
    """Of two results of a commit, whichever is ours."""
    told = []
    there = merge(folder(one), folder(other), told.append)
    back = merge(folder(other), folder(one), told.append)
    assert there == back
    assert told == []
    assert set(there) == {FILE}
    return rows(parse(FILE, there[FILE]))


def values(row):
    return row["result"]


def test_files_of_commits_machines_and_environments_are_apart():
    ours = {"vm/a-env.json": b"{}", "vm/b-env.json": b"{}"}
    ours = {name: json.dumps(REAL).encode() for name in ours}
    theirs = {"vm/a-other.json": json.dumps(REAL).encode(), "big/a-env.json": b"{"}
    assert merge(ours, theirs, pytest.fail) == ours | theirs


def test_each_benchmark_is_the_later_runs():
    def first(results):
        results[OUTPUT][0][0] = 1.0
        results[FORWARD][0][0] = 1.0
        results[FORWARD][COLUMN["started_at"]] += 100

    def second(results):
        results[OUTPUT][0][0] = 2.0
        results[FORWARD][0][0] = 2.0
        results[OUTPUT][COLUMN["started_at"]] += 100

    found = merged(changed(first), changed(second))
    assert (values(found[OUTPUT])[0], values(found[FORWARD])[0]) == (2.0, 1.0)


def test_a_benchmark_that_one_side_has_is_kept():
    found = merged(changed(lambda r: r.pop(OUTPUT), later=5), changed(lambda r: r.pop(FORWARD)))
    assert set(found) == set(REAL["results"])


def test_what_the_later_run_left_out_is_the_earliers():
    """Quick presets by one run, S1 by a later one: with the statistics of each."""

    def without_quick(results):
        for name in results:
            for column in ("result", *(c for c in COLUMN if c.startswith("stats_"))):
                row = results[name]
                if len(row) > COLUMN[column] and row[COLUMN[column]] is not None:
                    empty = math.nan if column == "result" else None
                    row[COLUMN[column]] = [empty for _ in row[COLUMN[column]]]
        place = BENCHMARKS[FORWARD]["params"][1].index("'S1'")
        results[FORWARD][0][place] = 3.0
        results[FORWARD][COLUMN["stats_repeat"]][place] = 7

    found = merged(changed(without_quick, later=1000), REAL)
    before = rows(REAL)
    place = BENCHMARKS[FORWARD]["params"][1].index("'S1'")
    assert values(found[FORWARD])[place] == 3.0
    assert found[FORWARD]["stats_repeat"][place] == 7
    for name, row in found.items():
        for at, value in enumerate(values(before[name])):
            if not math.isnan(value):
                assert values(row)[at] == value
                for column in COLUMN:
                    if column.startswith("stats_") and before[name].get(column):
                        assert row[column][at] == before[name][column][at]
        assert row["started_at"] == before[name]["started_at"] + 1000


def test_a_failure_of_the_later_run_is_not_hidden():
    later = changed(lambda r: r[OUTPUT].__setitem__(0, None), later=1)
    assert merged(later, REAL)[OUTPUT].get("result") is None


def test_another_version_is_not_mixed():
    def second(results):
        results[OUTPUT][COLUMN["version"]] = "3"
        results[OUTPUT][0] = [math.nan] * 40

    assert all(map(math.isnan, values(merged(changed(second, later=1), REAL)[OUTPUT])))


def test_choices_that_one_run_did_not_know_are_kept():
    def fewer(results):
        row = results[OUTPUT]
        width = len(row[1][1])
        row[1][0] = row[1][0][1:]
        row[0] = [9.0] * (len(row[0]) - width)

    found = merged(changed(fewer, later=1), REAL)[OUTPUT]
    width = len(found["params"][1])
    assert found["params"][0] == [*BENCHMARKS[OUTPUT]["params"][0][1:], "'AMXBF16_SFT'"]
    assert values(found)[:-width] == [9.0] * (len(values(found)) - width)
    real = rows(REAL)[OUTPUT]["result"][:width]
    assert [*map(repr, values(found)[-width:])] == [*map(repr, real)]


def test_merging_again_changes_nothing():
    draw = random.Random(4)
    sides = [changed(lambda r: r.pop(draw.choice(sorted(r))), later) for later in (0, 3, 9)]
    every = folder(sides[0])
    for side in sides[1:]:
        every = merge(every, folder(side), pytest.fail)
    for side in sides:
        assert merge(folder(side), every, pytest.fail) == every
        assert merge(every, folder(side), pytest.fail) == every


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"\xff", b'{"version": 2}', b'{"version": 1}']
)
def test_damage_is_named_and_never_spreads(damage):
    told, whole = [], json.dumps(REAL).encode()
    assert merge({FILE: damage}, {FILE: whole}, told.append) == {FILE: whole}
    assert merge({FILE: whole}, {FILE: damage}, told.append) == {FILE: whole}
    assert merge({FILE: damage}, {}, told.append) == {}
    assert len(told) == 3
    assert all(FILE in line for line in told)


def test_the_benchmarks_are_those_of_the_later_run():
    old = {"benchmarks.json": b'{"a": 1}', **folder(REAL)}
    new = {"benchmarks.json": b'{"b": 1}', **folder(changed(lambda r: None, later=1))}
    for one, other in ((old, new), (new, old)):
        assert merge(one, other, pytest.fail)["benchmarks.json"] == b'{"b": 1}'


def test_two_machines_of_one_name_are_told():
    old = {"vm/machine.json": b'{"cpu": "A", "ram": "1"}', **folder(REAL)}
    new = {"vm/machine.json": b'{"cpu": "B", "ram": "1"}', **folder(changed(lambda r: None, 1))}
    told = []
    assert merge(old, new, told.append)["vm/machine.json"] == new["vm/machine.json"]
    assert told == ["vm/machine.json differs: cpu 'A' and 'B'; the later run's is kept"]
