"""Rows of asv's suites, as a review runs them: every way in which a row can have no value."""

import math
import re
import sys

import pytest

from tools.child import Child, ChildEndedError, ChildError
from tools.review import exact, names, suites_worker
from tools.review.builds import ROOT, Build

SUITE = """
import os, time
class Suite:
    params = (("A_SFT", "B"), ("p",))
    param_names = ("method", "preset")
    def setup(self, method, preset):
        if method == "B":
            raise NotImplementedError("no B yet")
    def track_fine(self, method, preset):
        return 1.5
    def track_raises(self, method, preset):
        raise ValueError("of two\\nlines")
    def track_nan(self, method, preset):
        return float("nan")
    def track_exits(self, method, preset):
        raise SystemExit(0)
    def track_is_killed(self, method, preset):
        os.kill(os.getpid(), 9)
    def track_sleeps(self, method, preset):
        time.sleep(60)
    def peakmem_some(self, method, preset):
        pass
class Shared:
    params, param_names = (("A_SFT",), ("p",)), ("method", "preset")
    def setup_cache(self):
        open("made", "w").write("7")
        return {"cached": 3}
    def track_both(self, cache, method, preset):
        return cache["cached"] + int(open("made").read())
"""


@pytest.fixture(scope="module")
def suites(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suites")
    (folder / "review_suites").mkdir()
    (folder / "review_suites" / "__init__.py").write_text("")
    (folder / "review_suites" / "a.py").write_text(SUITE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setattr(suites_worker, "SECONDS", 1)
        yield suites_worker.Suites(folder / "review_suites", folder)


def run(suites, metric, method="A_SFT", suite="Suite"):
    return suites.run(f"a.{suite}.track_{metric}('{method}', 'p')")


def test_a_value(suites):
    assert run(suites, "fine") == {"value": 1.5}
    assert suites.run("a.Suite.peakmem_some('A_SFT', 'p')")["value"] > 1e6


def test_what_an_old_commit_lacks_is_lacking(suites):
    assert run(suites, "fine", "B") == {"lacking": "not in this commit"}


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        ("raises", "ValueError: of two"),
        ("nan", "it gave nan, wanted a finite number"),
        ("exits", "SystemExit: 0"),
        ("is_killed", "its process ended with exit code -9"),
        ("sleeps", "its process ended with exit code -14, which ends what takes 1 s"),
        ("renamed", "gone: no suite has this row"),
    ],
)
def test_what_has_no_value_says_why(suites, metric, why):
    assert run(suites, metric) == {"failed": why}


def test_a_setup_cache(suites):
    assert run(suites, "both", suite="Shared") == {"value": 10.0}


class Worker:
    """Answers one after another."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def ask(self, name):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


ERROR = names.parse("relative_error.RelativeError.track_output('AMXINT8_SFT', 'S1')")
BYTES = names.parse("memory.Memory.peakmem_forward('AMXINT8_SFT', 'quick-memory')")


def test_of_memory_the_least_of_three_counts():
    found = exact.sampled(Worker({"value": 1.1}, {"value": 1.0}, {"value": 1.05}), BYTES)
    assert (found.value, found.spread) == (1.0, pytest.approx(0.1))
    assert exact.sampled(Worker({"value": 1.1}), ERROR).value == 1.1


@pytest.mark.parametrize(
    ("answer", "value", "why"),
    [
        ({"failed": "boom"}, None, "boom"),
        ({"lacking": "not in this commit"}, math.nan, "not in this commit"),
        (ChildError("KeyError: 1"), None, "KeyError: 1"),
        (ChildEndedError("ImportError: x"), None, "no benchmark runs: ImportError: x"),
    ],
)
def test_what_a_worker_says_instead(answer, value, why):
    found = exact.sampled(Worker({"value": 1.0}, answer), BYTES)
    assert found.value == value or math.isnan(found.value)
    assert found.why == why


def test_the_real_suites_on_this_tree():
    rows = [
        names.parse(f"memory.Memory.track_bytes_per_weight('{method}', 'quick-compute')")
        for method in ("AMXINT8_SFT", "NO_SUCH_SFT")
    ]
    ticks = []
    found = exact.measure(Build("HEAD", ROOT), rows, lambda: ticks.append(1))
    first, second = found.values()
    assert 1.0 <= first.value < 1.1
    assert second.why == "gone: no suite has this row"
    assert len(ticks) == 2


def test_another_copy_of_the_package_is_not_measured(tmp_path):
    found = exact.measure(Build("HEAD", tmp_path), [BYTES], lambda: None)
    (outcome,) = found.values()
    assert outcome.value is None
    assert re.search(
        rf"no benchmark runs: ImportError: measuring .*, wanted the extension in {tmp_path}",
        outcome.why,
    )


CHILD = """
import sys, time
from multiprocessing.connection import Connection
from tools.child import serve
def answer(kind):
    if kind == "sleep":
        time.sleep(60)
    return {"ok": 1, "error": 1 / 0}[kind] if kind == "error" else kind
serve(Connection(int(sys.argv[1])), answer)
"""


def test_a_child_that_lets_one_wait_is_ended():
    child = Child(sys.executable, ["-c", CHILD], patience=20)
    try:
        assert child.ask("ok") == "ok"
        with pytest.raises(ChildError, match="ZeroDivisionError"):
            child.ask("error")
        child._patience = 0.2
        with pytest.raises(ChildEndedError, match=r"no answer within 0\.2 s"):
            child.ask("sleep")
        with pytest.raises(ChildEndedError, match="exit code -9"):
            child.ask("ok")
    finally:
        child.close()
