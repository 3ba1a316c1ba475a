"""Times that take turns, on the extension of this tree."""

import math
from types import SimpleNamespace

import pytest

from tools.child import ChildEndedError, ChildError
from tools.review import names, speed
from tools.review.builds import ROOT, Build

ROW = names.parse("review.Speed.time_training_step('AMXINT8_SFT', 'quick-compute')")
UNKNOWN = names.parse("review.Speed.time_forward('NO_SUCH_SFT', 'quick-compute')")


def test_both_sides_rows_and_their_control(monkeypatch):
    monkeypatch.setattr(speed, "ROUNDS", 2)
    ticks = []
    builds = (Build("base", ROOT), Build("head", ROOT))
    found = speed.look(builds, [ROW, UNKNOWN], lambda: ticks.append(1))
    control = speed.control("quick-compute")
    assert list(found) == [ROW.whole, UNKNOWN.whole, control.whole]
    assert len(ticks) == 2 * 3
    for name in (ROW, control):
        timed = found[name.whole]
        assert len(timed.changes) == 2
        assert [len(seconds) for seconds in timed.seconds] == [8, 8]
        assert 1e-5 < timed.outcome(0).value < 1
    for side in found[UNKNOWN.whole].missing:
        assert (math.isnan(side.value), side.why) == (True, "not in this commit")


@pytest.mark.parametrize("first", [0, 1])
def test_every_other_round_begins_with_the_other_side(monkeypatch, first):
    began = []
    monkeypatch.setattr(speed, "ROUNDS", 4)
    monkeypatch.setattr(speed, "start", lambda *_: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(speed, "measure", lambda _, name, __, side: began.append((name, side)))
    speed.look((Build("base", ROOT), Build("head", ROOT)), [ROW], lambda: None, first)
    for name in (ROW, speed.control("quick-compute")):
        sides = [side for each, side in began if each == name]
        assert sides == [first, 1 - first, first, 1 - first]


class Worker:
    """Answers with one time after another, and keeps the order of all workers' turns."""

    def __init__(self, side, order, answers):
        self.side, self.order, self.answers = side, order, iter(answers)

    def ask(self, *request):
        self.order.append(self.side)
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("first", "wanted"), [(0, [0, 1, 0, 1, 1, 0, 1, 0, 0, 1]), (1, [1, 0, 1, 0, 0, 1, 0, 1, 1, 0])]
)
def test_turns_are_base_head_head_base_and_their_mirror_after_one_call_of_each(first, wanted):
    order = []
    workers = [Worker(0, order, [9.0, 1.0, 1.0, 1.0, 1.0]), Worker(1, order, [9.0, 2, 2, 2, 2])]
    timed = speed.Timed(ROW)
    speed.measure(workers, ROW, timed, first)
    assert order == wanted
    assert timed.seconds == ([1.0] * 4, [2.0] * 4)
    assert timed.changes == [pytest.approx(math.log(2))]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ChildError("ValueError: x"), "ValueError: x"),
        (ChildEndedError("killed"), "no benchmark runs: killed"),
    ],
)
@pytest.mark.parametrize("before", [0, 2])
def test_a_side_that_fails_is_not_asked_again_and_the_other_timed(error, why, before):
    order = []
    workers = [Worker(0, order, [1.0] * 5), Worker(1, order, [2.0] * before + [error])]
    timed = speed.Timed(ROW)
    speed.measure(workers, ROW, timed)
    assert (order.count(0), order.count(1)) == (5, before + 1)
    assert (timed.missing[0], timed.missing[1].why) == (None, why)
    assert timed.outcome(0).value == 1.0
    assert timed.changes == []
