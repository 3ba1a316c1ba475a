"""Change points: what was planted is found where it is, and what moves nothing is no level."""

import math
import random

import pytest

from tools import change_points, change_points_table, verdict
from tools.history import Measured, Row


def found(values, unit="x", by_difference=False):
    row = Row("a.B.c", (), unit, by_difference, tuple(map(Measured, values)))
    return change_points.moves(row, verdict.floors([row])[0])


def noisy(values, spread, seed):
    draw = random.Random(seed)
    return [value * math.exp(draw.gauss(0, spread)) for value in values]


@pytest.mark.parametrize(("factor", "spread"), [(1.15, 0.03), (0.85, 0.03), (1.3, 0.05), (2, 0.1)])
def test_a_step_is_found_where_it_is_whatever_the_noise(factor, spread):
    hits = [
        [move.at for move in found(noisy([1.0] * 20 + [factor] * 12, spread, seed))]
        for seed in range(50)
    ]
    assert sum(any(abs(at - 20) <= 1 for at in places) for places in hits) >= 48
    assert sum(len(places) for places in hits) <= 52


def test_noise_alone_and_single_outliers_are_no_levels():
    for seed in range(100):
        values = noisy([1.0] * 40, 0.05, seed)
        assert found(values) == []
        values[7], values[25] = 1.6, 0.5
        assert found(values) == []


def test_two_values_are_a_level_and_one_is_none():
    for count, wanted in ((1, []), (2, [20])):
        assert [move.at for move in found(noisy([1.0] * 20 + [1.4] * count, 0.02, 5))] == wanted


def test_a_level_that_was_left_again_is_marked_but_does_not_stand():
    moves = found(noisy([1.0] * 12 + [1.4] * 6 + [1.0] * 12, 0.02, 1))
    assert [(move.at, move.stands) for move in moves] == [(12, False), (18, True)]


def test_a_change_below_what_counts_is_no_move():
    assert found(noisy([1.0] * 20 + [1.07] * 20, 0.005, 2)) == []
    assert [move.at for move in found(noisy([1.0] * 20 + [1.12] * 20, 0.005, 2))] == [20]


def test_exact_values_move_at_once_by_one_percent():
    assert [move.at for move in found([1.0] * 9 + [1.011], "%")] == [9]
    assert found([1.0] * 9 + [1.009], "%") == []


def test_overheads_move_by_their_own_unit():
    values = [0.1, -0.2, 0.0, 0.2, -0.1, 0.1, 0.0, -0.1, 3.1, 2.9, 3.0]
    (move,) = found(values, "%", by_difference=True)
    assert (move.at, move.since) == (8, 7)
    assert move.change == pytest.approx(3, abs=0.2)


def test_short_histories_and_unknown_noise_have_no_moves():
    for values in ([math.nan], [1.0], [1.0, 2.0], [1.0, 1.02, 2.0]):
        assert found(values) == []


def test_the_tables_series_are_scored_as_it_says():
    score = change_points_table.score
    assert score([10], [11]) == (1, 0)
    assert score([10, 30], [11]) == (1, 1)
    assert score([10, 12], [11]) == (1, 1)
    assert score([8], [11]) == (0, 1)
    assert score([5, 15], [5, 15]) == (2, 0)


@pytest.mark.parametrize("name", change_points_table.PLANTED)
def test_the_tables_plants_are_where_it_says(name):
    plant, _, unit = change_points_table.PLANTED[name]
    assert unit in change_points_table.SMALLEST
    for seed in range(20):
        values, places = plant(random.Random(seed))
        assert len(values) == change_points_table.COMMITS
        for place in places:
            assert abs(values[place] / values[place - 1] - 1) > 0.01


def test_asvs_search_is_asked_as_its_page_asks():
    values = noisy([1.0] * 20 + [2.0] * 20, 0.02, 1)
    assert change_points_table.asvs(values, "seconds") == [20]
    assert change_points_table.asvs([1.0] * 20 + [1.05] * 20, "seconds") == []
