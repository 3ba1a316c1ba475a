"""Verdicts on rows: what is worse, fine, hidden by noise or not measured, and by which commit."""

import itertools
import math
import random
from statistics import median

import pytest

from tools import verdict
from tools.history import Measured, Row

NAN = math.nan


def make_row(values, unit="%", by_difference=False, interval=None, name="relative_error.R.track_a"):
    points = [Measured(value) for value in values]
    if interval:
        points[-1] = Measured(values[-1], interval)
    return Row(name, (("method", "'M'"),), unit, by_difference, tuple(points))


def judged(values, ceiling=None, **options):
    (found,) = verdict.judge_all([make_row(values, **options)], lambda row: ceiling)
    return found


def noisy(count, spread, seed=3):
    draw = random.Random(seed)
    return [math.exp(draw.gauss(0, spread)) for _ in range(count)]


def test_a_value_that_repeats_is_exact_and_fine():
    found = judged([1.7] * 6)
    assert (found.verdict.state, found.verdict.floor, found.moves) == (verdict.FINE, 0, [])


@pytest.mark.parametrize(("factor", "state"), [(1.009, verdict.FINE), (1.011, verdict.WORSE)])
def test_of_an_exact_value_one_percent_counts(factor, state):
    assert judged([1.7] * 6 + [1.7 * factor]).verdict.state == state


def test_what_crept_up_is_worse_though_no_step_was():
    found = judged([1.0] * 6 + [1.009**i for i in range(1, 4)])
    assert found.verdict.state == verdict.WORSE
    assert found.verdict.change == pytest.approx(1.009**3 - 1)
    assert found.cause is None


def test_what_is_worse_stays_so_until_it_is_undone():
    found = judged([1.0] * 4 + [1.3] * 8)
    assert found.verdict.state == verdict.WORSE
    assert (found.cause.at, found.cause.since, found.cause.before) == (4, 3, 1.0)
    undone = judged([1.0] * 4 + [1.3] * 3 + [1.0])
    assert undone.verdict.state == verdict.FINE
    assert [(move.at, move.stands) for move in undone.moves] == [(4, False), (7, True)]
    assert undone.cause is None


def test_a_commit_without_a_value_between_is_no_move():
    (move,) = judged([1.0, 1.0, 1.0, NAN, 1.3, 1.3]).moves
    assert (move.at, move.since) == (4, 2)


def test_the_better_is_a_move_too():
    (move,) = judged([1.0] * 4 + [0.8] * 2).moves
    assert move.change == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("value", "why"), [(NAN, "n/a"), (None, "failed"), (math.inf, "n/a")], ids=str
)
def test_without_a_number_it_is_not_measured(value, why):
    found = judged([1.0] * 5 + [value], ceiling=2)
    assert (found.verdict.state, found.verdict.why) == (verdict.NOT_MEASURED, why)


def test_a_ceiling_holds_even_for_a_first_value():
    assert judged([2.1], ceiling=2).verdict.state == verdict.WORSE
    assert judged([1.9], ceiling=2).verdict.state == verdict.FINE
    assert judged([1.9]).verdict.state == verdict.UNDECIDED
    assert judged([2.1] * 5, ceiling=2).verdict.state == verdict.WORSE


def test_until_noise_is_known_nothing_is_decided():
    assert judged([1.0, 1.0]).verdict.state == verdict.UNDECIDED
    assert judged([1.0, 1.0]).moves == []


def test_a_short_history_borrows_the_other_rows_of_its_benchmark():
    rows = [make_row([value, value]) for value in (1.0, 2.0, 3.0)]
    assert verdict.floors(rows) == [0, 0, 0]
    assert verdict.floors([*rows[:2], make_row([1.0, 1.0], name="other.R.track_b")]) == [None] * 3


def test_the_floor_is_what_one_pair_in_a_hundred_passes():
    """20 pairs are few, so by the median of 100 histories."""
    found = [verdict.floors([make_row(noisy(21, 0.02, seed), unit="x")])[0] for seed in range(100)]
    floor = median(found)
    values = noisy(20_000, 0.02)
    passed = [abs(after / before - 1) > floor for before, after in itertools.pairwise(values)]
    assert 0.005 < sum(passed) / len(passed) < 0.02


def test_a_timing_has_at_least_the_noise_of_its_own_run():
    row = make_row([1.0] * 6, unit="seconds", interval=(0.9, 1.2))
    assert verdict.floors([row]) == [pytest.approx(0.3)]
    row = make_row([1.0] * 6, unit="seconds", interval=(-math.inf, math.inf))
    assert verdict.floors([row]) == [0]


def test_a_time_is_worse_when_seen_twice():
    quiet = noisy(12, 0.01)
    once = judged([*quiet, 1.5], unit="x")
    assert (once.verdict.state, once.moves) == (verdict.UNDECIDED, [])
    assert "once" in once.verdict.why
    twice = judged([*quiet, 1.5, 1.5], unit="x")
    assert twice.verdict.state == verdict.WORSE
    assert twice.cause.at == 12


def test_ten_percent_of_a_time_count():
    quiet = noisy(12, 0.005)
    assert judged([*quiet, 1.07, 1.07], unit="x").verdict.state == verdict.FINE
    assert judged([*quiet, 1.15, 1.15], unit="x").verdict.state == verdict.WORSE


def test_noise_hides():
    found = judged(noisy(14, 0.1), unit="x")
    assert found.verdict.state == verdict.UNDECIDED
    assert found.verdict.floor > 0.1


def test_values_near_zero_are_compared_by_difference():
    values = [0.1, -0.1, 0.2, 0.0, 0.1]
    assert judged(values, by_difference=True).verdict.state == verdict.FINE
    found = judged([*values, 3.0, 3.1], by_difference=True)
    assert found.verdict.state == verdict.WORSE
    assert found.verdict.change == pytest.approx(3.0, abs=0.2)


def test_zero_before_is_no_division():
    assert judged([0.0] * 5 + [0.1]).verdict.state == verdict.WORSE
    assert judged([0.0] * 6).verdict.state == verdict.FINE


def test_quiet_noise_alarms_rarely():
    """Of 1000 quiet histories: the rule asks for two values beyond one in a hundred each."""
    states = [judged(noisy(16, 0.02, seed), unit="x").verdict.state for seed in range(1000)]
    assert states.count(verdict.WORSE) <= 2


QUIET = [1.0, 1.01, 0.99, 1.0, 1.01, 0.99]
CONTROL = "control.Control.time_product"


@pytest.mark.parametrize(
    ("factor", "slow", "state"),
    [
        (1.3, 1.0, verdict.WORSE),
        (1.3, 1.05, verdict.WORSE),  # the control's own noise, or not enough to count
        (1.3, 1.25, verdict.UNDECIDED),
        (1.6, 1.25, verdict.WORSE),  # slower by more than the machine
    ],
)
def test_a_time_that_grew_with_the_control_is_undecided(factor, slow, state):
    rows = [
        make_row([*QUIET, factor, factor], unit="seconds", name="forward.Forward.time_forward"),
        make_row([*QUIET, slow, slow], unit="seconds", name=CONTROL),
        make_row([*QUIET, factor, factor], unit="x", name="roofline.R.track_over"),
    ]
    time, control, over = verdict.judge_all(rows, lambda row: None)
    assert time.verdict.state == state
    assert control.verdict.state == (verdict.UNDECIDED if slow > 1.1 else verdict.FINE)
    assert control.moves == []  # no commit is the cause
    assert over.verdict.state == verdict.WORSE  # a ratio survives a slow machine
