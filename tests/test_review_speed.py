"""Times that take turns, on the extension of this tree."""

import math

import pytest

from tools.child import ChildEndedError, ChildError
from tools.review import names, speed
from tools.review.builds import ROOT, Build

ROW = names.parse("review.Speed.time_training_step('AMXINT8_SFT', 'quick-compute')")
UNKNOWN = names.parse("review.Speed.time_forward('NO_SUCH_SFT', 'quick-compute')")


def test_both_sides_rows_and_their_control(monkeypatch):
    monkeypatch.setattr(speed, "ROUNDS", 2)
    monkeypatch.setattr(speed, "SECONDS", 0.02)
    ticks = []
    builds = (Build("base", ROOT), Build("head", ROOT))
    found = speed.look(builds, [ROW, UNKNOWN], lambda: ticks.append(1))
    control = speed.control("quick-compute")
    assert list(found) == [ROW.whole, UNKNOWN.whole, control.whole]
    assert len(ticks) == 2 * 3
    for name in (ROW, control):
        timed = found[name.whole]
        assert len(timed.changes) == 2
        assert [len(seconds) for seconds in timed.seconds] == [4, 4]
        assert 1e-5 < timed.outcome(0).value < 1
    for side in found[UNKNOWN.whole].missing:
        assert (math.isnan(side.value), side.why) == (True, "not in this commit")


class Worker:
    """Answers with its own time, and keeps the order of all workers' turns."""

    def __init__(self, side, order, answer):
        self.side, self.order, self.answer = side, order, answer

    def ask(self, *request):
        self.order.append(self.side)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_turns_are_base_head_head_base():
    order = []
    workers = [Worker("base", order, (1.0, 1.0)), Worker("head", order, (2.0, 1.0))]
    timed = speed.Timed(ROW)
    speed.measure(workers, ROW, timed)
    assert order == ["base", "head", "head", "base"]
    assert timed.seconds == ([1.0, 1.0], [2.0, 2.0])


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ChildError("ValueError: x"), "ValueError: x"),
        (ChildEndedError("killed"), "no benchmark runs: killed"),
    ],
)
def test_a_side_that_fails_is_asked_once_and_the_other_timed(error, why):
    order = []
    workers = [Worker("base", order, (1.0, 1.0)), Worker("head", order, error)]
    timed = speed.Timed(ROW)
    speed.measure(workers, ROW, timed)
    assert order == ["base", "head", "base"]
    assert (timed.missing[0], timed.missing[1].why) == (None, why)
    assert timed.outcome(0).value == 1.0
    assert timed.changes == []
