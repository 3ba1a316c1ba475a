"""The command: builds both commits, measures every expected row on both, judges, reports."""

import argparse
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from asv.machine import Machine

from tools import files, lock
from tools.progress import progress
from tools.verdict import Verdict

from . import exact, instructions, judge, looks, rows, speed
from .builds import ROOT, Build, BuildError, build, git
from .judge import NO_VERDICT, Judged
from .names import BYTES, INSTRUCTIONS, PRECISION, SECTIONS, SPEED, Name
from .outcome import failed
from .report import Report, markdown

FOLDER = ROOT / "build" / "review"
SIDES = ("base", "head")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="python -m tools.review", description=__doc__)
    parser.add_argument("base", metavar="BASE", help="the commit that HEAD is held against")
    parser.add_argument("--only", metavar="REGEX", type=pattern, help="rows whose name it matches")
    return parser.parse_args(arguments)


def pattern(text: str) -> re.Pattern:
    """A regular expression, as an option takes it."""
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"got {text!r}, {error}") from None


def chosen(only: re.Pattern | None) -> list[Name]:
    """The expected rows, or those of them that were asked for."""
    return [name for name in rows.expected() if not only or only.search(name.whole)]


def both_builds(commits: tuple[str, str]) -> tuple[Build, Build]:
    """Base and head, one after the other: each takes all cores."""
    found = []
    with progress(2, "building base and head", sys.stderr) as bar:
        for side, commit in zip(SIDES, commits, strict=True):
            try:
                found.append(build(ROOT, commit, FOLDER))
            except BuildError as error:
                raise BuildError(f"{side}: {error}") from None
            bar.update()
    return found[0], found[1]


def both_sides(
    measure: Callable, builds: tuple[Build, Build], names: list[Name], what: str
) -> list[Judged]:
    """Rows of which both sides are measured at the same time: no clock is read."""
    if not names:
        return []
    with progress(2 * len(names), what, sys.stderr) as bar, ThreadPoolExecutor() as pool:
        base, head = pool.map(lambda side: measure(side, names, bar.update), builds)
    return [judge.exact(name, base[name.whole], head[name.whole]) for name in names]


def look(
    builds: tuple[Build, Build], names: list[Name], what: str, first: int = 0
) -> dict[str, speed.Timed]:
    """One look at the rows of times; `first` is the side that begins."""
    total = speed.ROUNDS * (len(names) + len({name.preset for name in names}))
    with progress(total, what, sys.stderr) as bar:
        return speed.look(builds, names, bar.update, first)


def timed(builds: tuple[Build, Build], names: list[Name]) -> list[Judged]:
    """The rows of times, looked at twice where once does not settle it."""
    if not names:
        return []
    first = look(builds, names, "times")
    found = looks.glances(first)
    same = builds[0].extension.read_bytes() == builds[1].extension.read_bytes()
    if same:
        return [without_verdict(name, first[name.whole], found[name.whole]) for name in names]
    repeated = [name for name in names if looks.again(found[name.whole])]
    if repeated:
        # Who gets slow memory may depend on the order of loading, so the other side begins.
        second = look(builds, repeated, f"times of {len(repeated)} rows again", first=1)
        for whole, verdict in looks.glances(second).items():
            found[whole] = looks.settle(found[whole], verdict)
        first |= second
    return [judged(name, first[name.whole], found[name.whole]) for name in names]


def judged(name: Name, times: speed.Timed, verdict: Verdict) -> Judged:
    """A row of times."""
    return Judged(name, times.outcome(0), times.outcome(1), verdict)


def without_verdict(name: Name, times: speed.Timed, verdict: Verdict) -> Judged:
    """A row of which both sides run the same code; it must have been measured all the same."""
    if verdict.change is None:
        return judged(name, times, verdict)
    return judged(name, times, Verdict(NO_VERDICT, "", verdict.change, verdict.floor))


def measure(builds: tuple[Build, Build], names: list[Name]) -> tuple[list[Judged], str]:
    """All rows, and a line that says how long what took."""
    start = time.monotonic()
    of = {section: [n for n in names if n.section == section] for section in SECTIONS}
    found = both_sides(exact.measure, builds, of[PRECISION] + of[BYTES], "errors and bytes")
    found += both_sides(instructions.measure, builds, of[INSTRUCTIONS], "instructions")
    middle = time.monotonic()
    found += timed(builds, of[SPEED])
    end = time.monotonic()
    return found, f"Exact rows took {middle - start:.0f} s, times {end - middle:.0f} s."


def noise_note(found: list[Judged]) -> list[str]:
    """Of a review whose sides run the same code."""
    changes = [abs(row.verdict.change) for row in found if row.verdict.state == NO_VERDICT]
    if not changes:
        return []
    return [
        "Base and head build the same extension, byte for byte: times get no verdict. The largest "
        f"difference seen, {max(changes):.1%}, is this run's noise."
    ]


def notes_before(base: str) -> list[str]:
    """What a reader must know of the two trees."""
    notes = []
    if git(ROOT, "status", "--porcelain"):
        notes.append("There are changes that are not committed. They are not in the build.")
    manifest = rows.MANIFEST.relative_to(ROOT)
    if git(ROOT, "ls-tree", base, str(manifest)):
        theirs = set(git(ROOT, "show", f"{base}:{manifest}").splitlines())
        gone = sorted(theirs - {name.whole for name in rows.expected()})
        notes += [f"No longer expected, though base expects it: {row}" for row in gone]
    return notes


def commits(base: str) -> tuple[str, str]:
    """The hashes of base and HEAD; SystemExit where there is none."""
    if git(ROOT, "status", "--porcelain", "benchmarks"):
        sys.exit("benchmarks/ has changes that are not committed, and would measure both sides")
    try:
        found = [git(ROOT, "rev-parse", "--verify", f"{c}^{{commit}}") for c in (base, "HEAD")]
    except BuildError:
        sys.exit(f"BASE: got {base!r}, wanted a commit of this repository")
    return found[0], found[1]


def describe(commit: str) -> str:
    """Short hash and subject."""
    return git(ROOT, "log", "-1", "--format=%h (%s)", commit)


def review(arguments: list[str]) -> int:
    """Review, print, write build/review/report.md; the exit code."""
    options = parse(arguments)
    base, head = commits(options.base)
    names = chosen(options.only)
    if not names:
        sys.exit(f"--only: got {options.only.pattern!r}, wanted what matches a row of rows.txt")
    notes, log, start = notes_before(base), "", time.monotonic()
    with lock.measuring("tools.review"):  # builds, too: they would slow who measures
        try:
            builds = both_builds((base, head))
        except BuildError as error:
            log = str(error)
            missing = failed(log.splitlines()[0])
            found = [judge.exact(name, missing, missing) for name in names]
        else:
            built = time.monotonic() - start
            found, took = measure(builds, names)
            notes += [*noise_note(found), f"Building took {built:.0f} s. {took}"]
    machine = Machine.get_defaults()
    where = f"{machine['cpu']}, {machine['num_cpu']} cores"
    text = markdown(Report(describe(head), describe(base), where, found, notes, log))
    files.write_text(FOLDER / "report.md", text)
    print(text)
    return judge.exit_code(found)
