"""A review's verdicts: on what is exact, on what looks at the times say, and their exit code."""

import itertools
import math
import random
import statistics

import pytest

from tools.review import judge, looks, names, speed
from tools.review.outcome import Outcome, failed, lacking
from tools.verdict import FINE, NOT_MEASURED, UNDECIDED, WORSE, Verdict

ERROR = "relative_error.RelativeError.track_output('AMXINT8_SFT', 'quick-compute')"
AT_S1 = "relative_error.RelativeError.track_output('AMXINT8_SFT', 'S1')"
BYTES = "memory.Memory.track_bytes_per_weight('AMXINT8_SFT', 'quick-compute')"
COUNT = "review.Instructions.count_forward('AMXINT8_SFT', 'tiny-compute')"
TIME = "review.Speed.time_forward('AMXINT8_SFT', 'quick-compute')"


def exact(whole, before, after, spread=0.0):
    sides = (Outcome(before, spread=spread), Outcome(after, spread=spread))
    return judge.exact(names.parse(whole), *sides).verdict


@pytest.mark.parametrize(
    ("row", "factor", "state"),
    [
        (ERROR, 1.009, FINE),
        (ERROR, 1.011, WORSE),
        (ERROR, 0.5, FINE),
        (BYTES, 1.009, FINE),
        (BYTES, 1.011, WORSE),
        (COUNT, 1.0049, FINE),
        (COUNT, 1.0051, WORSE),
    ],
)
def test_what_counts_of_what_is_exact(row, factor, state):
    found = exact(row, 1.5, 1.5 * factor)
    assert found.state == state
    assert found.change == pytest.approx(factor - 1)


def test_what_creeps_meets_its_ceiling():
    assert exact(AT_S1, 1.79, 1.795).state == FINE
    over = exact(AT_S1, 1.79, 1.805)
    assert (over.state, over.why) == (WORSE, "over its ceiling of 1.8 %")


def test_samples_that_differ_hide_what_is_smaller():
    assert exact(BYTES, 1.0, 1.02, spread=0.005).state == WORSE
    assert exact(BYTES, 1.0, 1.02, spread=0.03).state == UNDECIDED
    assert exact(BYTES, 1.0, 1.0, spread=0.03).state == UNDECIDED
    assert exact(BYTES, 1.0, 1.05, spread=0.03).state == WORSE


@pytest.mark.parametrize(
    ("base", "head", "state", "why"),
    [
        (Outcome(1.0), failed("ValueError: it gave nan"), NOT_MEASURED, "ValueError: it gave nan"),
        (failed("boom"), Outcome(1.0), NOT_MEASURED, "base: boom"),
        (Outcome(1.0), lacking("not in this commit"), NOT_MEASURED, "not in this commit"),
        (lacking("not in this commit"), Outcome(1.0), FINE, "nothing to compare with"),
        (lacking("not in this commit"), Outcome(11.0), WORSE, "over its ceiling of 10 %"),
    ],
)
def test_what_has_no_value(base, head, state, why):
    found = judge.exact(names.parse(ERROR), base, head).verdict
    assert found.state == state
    assert found.why.startswith(why)


def test_the_first_value_of_what_has_no_ceiling_is_undecided():
    found = judge.exact(names.parse(COUNT), lacking("not in this commit"), Outcome(1.0)).verdict
    assert found.state == UNDECIDED


def timed(change, noise=0.01, seconds=2e-3, seed=1):
    """Rounds as a look measures them."""
    draw = random.Random(seed)
    found = speed.Timed(names.parse(TIME))
    for _ in range(speed.ROUNDS):
        head = seconds * (1 + change) * math.exp(draw.gauss(0, noise))
        found.add([(side, (seconds, head)[side]) for side in speed.TURNS])
    return found


def glance(*arguments, still=True, **options):
    return looks.glance(timed(*arguments, **options), still)


def test_a_look_at_times():
    assert glance(0.0).state == FINE
    assert glance(-0.3).state == FINE
    assert glance(0.03).state == FINE
    assert glance(0.10).state == WORSE
    assert glance(0.10).change == pytest.approx(0.10, abs=0.02)
    assert glance(0.05).state == UNDECIDED
    assert glance(0.0, noise=0.3).state == UNDECIDED


def test_a_round_that_was_disturbed_is_no_change():
    found = timed(0.0)
    found.changes[3] = 2.0
    assert looks.interval(found.changes)[0] == pytest.approx(0.0, abs=0.01)
    assert looks.glance(found, True).state != WORSE


def test_microseconds_do_not_count():
    assert glance(0.10, seconds=1e-4).state == FINE
    assert glance(0.10, seconds=2e-3).state == WORSE
    assert glance(0.30, seconds=1e-4).state == WORSE


def test_where_the_control_moved_nothing_is_decided():
    assert glance(0.10, still=False).state == UNDECIDED
    assert looks.still(timed(0.0))
    assert not looks.still(timed(0.10))
    assert not looks.still(timed(-0.10))
    assert looks.still(timed(0.0, noise=0.3))  # the rows' own noise says what is undecided
    gone = timed(0.0)
    gone.missing = failed("boom"), None
    assert not looks.still(gone)


def test_every_row_is_judged_by_its_presets_control():
    row, control = names.parse(TIME), speed.control("quick-compute")
    for moved, state in ((0.0, WORSE), (0.10, UNDECIDED)):
        look = {row.whole: timed(0.10), control.whole: timed(moved)}
        look[control.whole].name = control
        found = looks.glances(look)
        assert {name: verdict.state for name, verdict in found.items()} == {row.whole: state}


def test_the_order_of_turns_takes_out_a_drift():
    found = speed.Timed(names.parse(TIME))
    seconds = [1.1**turn for turn in range(len(speed.TURNS))]
    found.add(list(zip(speed.TURNS, seconds, strict=True)))
    assert found.changes == [pytest.approx(0.0)]
    for side in (0, 1):
        own = [each for each, turn in zip(seconds, speed.TURNS, strict=True) if turn == side]
        assert found.outcome(side).value == statistics.median(own)


def test_neither_side_has_its_own_caches_more_often():
    order = (*speed.WARM_UP, *speed.TURNS)
    own = [now for before, now in itertools.pairwise(order) if now == before]
    assert own.count(0) == own.count(1)
    assert set(speed.WARM_UP) == {0, 1}


@pytest.mark.parametrize(
    ("first", "second", "state"),
    [
        (WORSE, WORSE, WORSE),
        (WORSE, FINE, UNDECIDED),
        (WORSE, UNDECIDED, UNDECIDED),
        (UNDECIDED, WORSE, UNDECIDED),
        (UNDECIDED, FINE, FINE),
        (UNDECIDED, UNDECIDED, UNDECIDED),
        (WORSE, NOT_MEASURED, NOT_MEASURED),
    ],
)
def test_two_looks(first, second, state):
    assert looks.again(Verdict(first))
    assert looks.settle(Verdict(first), Verdict(second)).state == state


def test_what_is_fine_or_missing_is_not_looked_at_again():
    assert not looks.again(Verdict(FINE))
    assert not looks.again(Verdict(NOT_MEASURED))


@pytest.mark.parametrize(
    ("missing", "state", "why"),
    [
        ((None, failed("boom")), NOT_MEASURED, "boom"),
        ((failed("boom"), None), NOT_MEASURED, "base: boom"),
        ((lacking("not in this commit"), None), UNDECIDED, "nothing to compare with"),
        ((None, lacking("not in this commit")), NOT_MEASURED, "not in this commit"),
    ],
)
def test_a_side_without_times(missing, state, why):
    found = speed.Timed(names.parse(TIME), missing=missing)
    found.add([(side, None if missing[side] else 1.0) for side in speed.TURNS])
    verdict = looks.glance(found, True)
    assert verdict.state == state
    assert verdict.why.startswith(why)


def rows(*states):
    return [
        judge.Judged(names.parse(whole), Outcome(1.0), Outcome(1.0), Verdict(state))
        for whole, state in states
    ]


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ([(ERROR, FINE), (TIME, FINE)], 0),
        ([(ERROR, FINE), (TIME, judge.NO_VERDICT)], 0),
        ([(ERROR, WORSE), (TIME, WORSE), (BYTES, NOT_MEASURED), (COUNT, UNDECIDED)], 1),
        ([(ERROR, NOT_MEASURED), (TIME, WORSE), (COUNT, UNDECIDED)], 2),
        ([(BYTES, WORSE)], 2),
        ([(COUNT, WORSE)], 2),
        ([(ERROR, NOT_MEASURED), (COUNT, UNDECIDED), (TIME, FINE)], 3),
        ([(ERROR, FINE), (TIME, UNDECIDED)], 4),
        ([], 3),
    ],
)
def test_exit_codes(states, code):
    assert judge.exit_code(rows(*states)) == code
