"""`python -m tools.review`: what is said of two commits, with measuring replaced by values."""

import subprocess
import sys

import pytest

from tools import lock
from tools.review import __main__ as entry
from tools.review import builds, command, exact, instructions, rows, speed
from tools.review.outcome import Outcome, failed, lacking

ERROR = "relative_error.RelativeError.track_output('AMXINT8_SFT', 'quick-compute')"
BYTES = "memory.Memory.track_bytes_per_weight('AMXINT8_SFT', 'quick-compute')"
COUNT = "review.Instructions.count_forward('AMXINT8_SFT', 'tiny-compute')"
TIME = "review.Speed.time_forward('AMXINT8_SFT', 'quick-compute')"
ALL = (ERROR, BYTES, COUNT, TIME)


@pytest.fixture
def review(monkeypatch, tmp_path, capsys):
    """A repository of two commits whose builds differ, four rows, and head's values by row."""
    head, slower, looked = {}, {}, []

    def git(*arguments):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q", "-b", "main")
    (tmp_path / ".gitignore").write_text("build/\n")
    git("add", "-A")
    for number in range(2):
        git("commit", "-q", "--allow-empty", "-m", f"commit {number}")

    def build(repo, commit, cache):
        package = tmp_path / "build" / commit / "package"
        (package / "kt_kernel").mkdir(parents=True, exist_ok=True)
        (package / "kt_kernel" / "kt_kernel_ext.so").write_text(commit)
        return builds.Build(commit, package)

    def measure(side, chosen, tick):
        is_head = side.commit == git("rev-parse", "HEAD").strip()
        return {
            name.whole: head.get(name.whole, Outcome(1.0)) if is_head else Outcome(1.0)
            for name in chosen
        }

    def look(sides, chosen, tick, first):
        looked.append((first, [name.whole for name in chosen]))
        found = {}
        for name in [*chosen, *{speed.control(name.preset) for name in chosen}]:
            timed = found[name.whole] = speed.Timed(name)
            factor = slower.get(name.whole, 1.0)
            for _ in range(speed.ROUNDS):
                timed.add([(side, (1.0, factor)[side]) for side in speed.TURNS])
        return found

    monkeypatch.setattr(lock, "path", lambda: tmp_path / "build" / "lock")
    (tmp_path / "build").mkdir()
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(command, "FOLDER", tmp_path / "build" / "review")
    monkeypatch.setattr(command, "build", build)
    monkeypatch.setattr(rows, "MANIFEST", tmp_path / "rows.txt")
    monkeypatch.setattr(exact, "measure", measure)
    monkeypatch.setattr(instructions, "measure", measure)
    monkeypatch.setattr(speed, "look", look)
    (tmp_path / "rows.txt").write_text("".join(f"{row}\n" for row in ALL))

    class Review:
        def __init__(self):
            self.head, self.slower, self.looked, self.git = head, slower, looked, git
            self.folder, self.monkeypatch = tmp_path, monkeypatch

        def run(self, *arguments):
            monkeypatch.setattr(sys, "argv", ["review", *arguments])
            self.code = entry.main()
            self.printed = capsys.readouterr()
            return self.code

        @property
        def written(self):
            return (tmp_path / "build" / "review" / "report.md").read_text()

    return Review()


def test_a_clean_head(review):
    assert review.run("HEAD~1") == 0
    assert review.written.startswith("**4 rows fine.**")
    assert review.printed.out == review.written + "\n"
    assert "(commit 1), against " in review.written
    assert "(commit 0), on " in review.written
    assert len(review.looked) == 1
    for part in ("building base and head", "errors and bytes", "instructions", "times"):
        assert f"{part}\n" in review.printed.err


@pytest.mark.parametrize(
    ("row", "value", "code", "said"),
    [
        (ERROR, Outcome(1.02), 1, "1 row less precise"),
        (BYTES, Outcome(1.05), 2, "1 row larger"),
        (COUNT, Outcome(1.006), 2, "1 row more instructions"),
        (ERROR, failed("ValueError: boom"), 3, "1 row not measured"),
        (BYTES, lacking("not in this commit"), 3, "1 row not measured"),
        (BYTES, Outcome(1.05, spread=0.2), 4, "1 row undecided"),
    ],
)
def test_what_head_did_to_one_row(review, row, value, code, said):
    review.head[row] = value
    assert review.run("HEAD~1") == code
    assert review.written.startswith(f"**{said}, 3 rows fine.**")


def test_slower_is_looked_at_twice(review):
    review.slower[TIME] = 1.15
    assert review.run("HEAD~1") == 2
    assert review.written.startswith("**1 row slower, 3 rows fine.**")
    assert review.looked == [(0, [TIME]), (1, [TIME])]


def test_the_machine_moved(review):
    review.slower |= {TIME: 1.15, speed.control("quick-compute").whole: 1.15}
    assert review.run("HEAD~1") == 4
    assert "PyTorch's own time moved" in review.written


def test_the_same_extension_gets_no_verdict_on_times(review):
    review.slower[TIME] = 1.15
    assert review.run("HEAD") == 0
    assert review.written.startswith("**1 row without a verdict, 3 rows fine.**")
    assert "byte for byte: times get no verdict" in review.written
    assert "15.0%, is this run's noise" in review.written
    assert len(review.looked) == 1


def test_a_build_that_fails(review):
    def build(repo, commit, cache):
        raise builds.BuildError("building 123 failed\nfile.cpp:1: error: no")

    review.monkeypatch.setattr(command, "build", build)
    assert review.run("HEAD~1") == 3
    assert review.written.startswith("**4 rows not measured.**")
    assert "base: building 123 failed" in review.written
    assert "file.cpp:1: error: no" in review.written
    assert review.looked == []


def test_only_some_rows(review):
    review.head[ERROR] = Outcome(2.0)
    assert review.run("HEAD~1", "--only", "Memory|Speed") == 0
    assert review.written.startswith("**2 rows fine.**")
    assert review.run("HEAD~1", "--only", "quick-compute") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["HEAD~1", "--only", "nothing"], "--only: got 'nothing', wanted what matches a row"),
        (["nowhere"], "BASE: got 'nowhere', wanted a commit"),
        (["-x"], "the following arguments are required: BASE"),
        (["HEAD", "--only", "("], "--only: got '(', missing )"),
    ],
)
def test_what_cannot_be_done_is_not_measured(review, arguments, said):
    assert review.run(*arguments) == 3
    assert said in review.printed.err
    assert review.printed.out == ""
    assert not (review.folder / "build" / "review").exists()


def test_what_goes_wrong_in_the_review_is_not_a_verdict(review):
    review.monkeypatch.setattr(speed, "look", lambda *arguments: 1 / 0)
    assert review.run("HEAD~1") == 3
    assert "ZeroDivisionError" in review.printed.err


def test_changes_that_are_not_committed(review):
    (review.folder / "new.cpp").write_text("")
    assert review.run("HEAD~1") == 0
    assert "changes that are not committed" in review.written
    (review.folder / "benchmarks").mkdir()
    (review.folder / "benchmarks" / "new.py").write_text("")
    assert review.run("HEAD~1") == 3
    assert "benchmarks/ has changes that are not committed" in review.printed.err


def test_a_row_that_head_no_longer_expects_is_named(review):
    review.git("add", "-A")
    review.git("commit", "-q", "-m", "four rows")
    (review.folder / "rows.txt").write_text(f"{ERROR}\n")
    review.git("commit", "-q", "-am", "one row")
    assert review.run("HEAD~1") == 0
    assert f"- No longer expected, though base expects it: {TIME}" in review.written
    assert ERROR not in review.written


def test_a_machine_that_is_being_measured_already(review):
    with lock.measuring("another"):
        assert review.run("HEAD~1") == 3
    assert "this machine is being measured already, by another" in review.printed.err
    built = [path.name for path in (review.folder / "build").iterdir()]
    assert built == ["lock"]  # neither a report nor a build, which would slow who measures
