"""asv at work on a small project: ended by force and begun again, two at once, what is damaged or
missing, a regression found."""

import os
import time

import pytest
from tiny_project import Tiny

from tools import measure

NUMBERS = (1.0, 1.0, 1.1, 1.1, 1.1, 1.5, 1.5, 1.5)
FIND = ("asv", "find", "main~7..main", "suite.Import.track_number")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return Tiny(tmp_path_factory.mktemp("tiny"), NUMBERS)


def test_a_run_that_was_killed_goes_on_and_loses_nothing(tiny):
    """While it runs a second is refused by its name; killed, it leaves no lock."""
    with tiny.started("tools.measure", "quick", "main") as process:
        while len(tiny.recorded()) < 2:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.05)
        code, out = tiny.done("asv", "run", "main^!")
        assert code == 1
        assert "this machine is being measured already, by tools.measure, process" in out
        os.killpg(process.pid, 9)
    before = tiny.recorded()
    assert 2 <= len(before) < len(NUMBERS)
    code, out = tiny.done("tools.measure", "quick", "main")
    assert code == 0, out
    after = tiny.recorded()
    assert {name: after[name] for name in before} == before
    assert tiny.values() == dict(zip(tiny.hashes, NUMBERS, strict=True))
    assert out.count("For tiny commit") == len(NUMBERS) - len(before)


def test_what_is_measured_is_not_measured_again(tiny):
    before = tiny.recorded()
    code, out = tiny.done("tools.measure", "quick", "main")
    assert (code, tiny.recorded()) == (0, before)
    assert "For tiny commit" not in out
    code, out = tiny.done("tools.measure", "quick")
    assert (code, out.strip()) == (
        0,
        "Nothing to measure: there are no such commits, or all have results.",
    )


def test_new_commits_are_those_since_the_last_that_was_measured(tiny):
    for commit in tiny.hashes[-2:]:
        (path,) = tiny.results.glob(f"{commit[:8]}-*.json")
        path.unlink()
    code, out = tiny.done("tools.measure", "quick")
    assert code == 0
    assert "Measuring 2 commits on vm." in out
    assert tiny.values() == dict(zip(tiny.hashes, NUMBERS, strict=True))


@pytest.mark.parametrize(
    ("known", "order"),
    [("", "aiecgbdfh"), ("e", "aicgbdfhe"), ("ai", "ecgbdfhai"), ("abcdefghi", "abcdefghi")],
)
def test_a_history_that_is_ended_early_reaches_from_end_to_end(known, order):
    assert "".join(measure.in_order("abcdefghi", set(known))) == order


def test_a_damaged_result_is_kept_aside_and_measured_again(tiny):
    (path,) = tiny.results.glob(f"{tiny.hashes[3][:8]}-*.json")
    path.write_text(path.read_text()[:100])
    code, out = tiny.done("tools.measure", "quick", "main")
    assert code == 0, out
    assert f"kept as {path.name}.damaged" in " ".join(out.split())
    assert len(path.with_name(f"{path.name}.damaged").read_text()) == 100
    assert tiny.values()[tiny.hashes[3]] == NUMBERS[3]
    assert out.count("For tiny commit") == 1


def test_asv_find_pins_the_greatest_regression_to_its_commit(tiny):
    code, out = tiny.done(*FIND)
    assert code == 0, out
    assert f"Greatest regression found: {tiny.hashes[5][:8]}" in out


def test_all_rows_are_there_until_a_benchmark_is_renamed(tiny):
    assert tiny.done("tools.missing_rows", "quick") == (0, "no row is missing\n")
    suite = tiny.folder / "suites" / "suite.py"
    suite.write_text(suite.read_text().replace("track_number", "track_other"))
    tiny.git("commit", "-q", "-am", "renamed")
    code, out = tiny.done("tools.measure", "quick", "HEAD^!")
    assert code == 0, out
    code, out = tiny.done("tools.missing_rows", "quick")
    assert code == 1
    assert "suite.Import.track_number: gone since the commit before\n" in out


def test_a_row_that_raises_fails_the_run_and_is_named(tiny):
    suite = tiny.folder / "suites" / "suite.py"
    suite.write_text(suite.read_text().replace("return float", "raise ValueError; return float"))
    tiny.git("commit", "-q", "-am", "raises")
    code, out = tiny.done("tools.measure", "quick")
    assert code == 1
    assert "asv run ended with exit code 2" in out
    code, out = tiny.done("tools.missing_rows", "quick")
    assert code == 1
    assert "Import.track_other: failed\n" in out


def test_words_that_name_nothing_are_refused(tiny):
    for arguments, told in (
        (["quick", "nowhere"], "git knows no commits nowhere"),
        (["fast"], "usage: python -m tools.measure quick|full [REVISIONS]"),
        ([], "usage: "),
    ):
        code, out = tiny.done("tools.measure", *arguments)
        assert code == 1
        assert told in out
    assert tiny.done("tools.missing_rows")[0] == 1
