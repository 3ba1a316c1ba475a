"""How far a review can be trusted: `python -m tools.review.trust [PLANT ...] [--times N]`.

Reviews every plant (plants.py) N times in a clone of HEAD under build/trust, and writes the table
docs/trust.md. What was done is a line of build/trust/runs.jsonl each: a run that was stopped goes
on where it was.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from asv.machine import Machine

from tools import files
from tools.progress import progress
from tools.verdict import UNDECIDED, WORSE

from . import trust_table
from .builds import ROOT, git
from .plants import PLANTS, Expected, Plant, environment

FOLDER = ROOT / "build" / "trust"
RUNS = FOLDER / "runs.jsonl"
TABLE = ROOT / "docs" / "trust.md"
TIMES = 20
LINE = re.compile(r"^\| \w+\.(\w+ \w+ [\w-]+) +\|.*\| (\*\*)?(worse|not measured|undecided|fine)\b")
WHO = ["-c", "user.name=plant", "-c", "user.email=plant@example.org"]


def clone_of(commit: str) -> Path:
    """A clone of this repository at the commit. Its builds stay from one run to the next."""
    clone = FOLDER / "clone"
    if not clone.exists():
        new = FOLDER / "new"
        shutil.rmtree(new, ignore_errors=True)
        subprocess.run(["git", "clone", "-q", ROOT, new], check=True)
        new.rename(clone)
    git(clone, "fetch", "-q", str(ROOT), commit)
    git(clone, "checkout", "-q", "--force", "-B", "plant", commit)
    return clone


def states(report: str) -> dict[str, str]:
    """The verdict of every row in a report, by metric, method and preset."""
    found = filter(None, map(LINE.match, report.splitlines()))
    return {match[1]: match[3] for match in found}


def right(expected: Expected, code: int, found: dict[str, str]) -> bool:
    """Whether the review said what it should."""
    if expected.code is None:
        return code in (0, 4) and WORSE not in found.values()
    named = [state for row, state in found.items() if re.search(expected.rows, f"{row} ")]
    as_it_should = [state == expected.state for state in named]
    rows = all(as_it_should) if expected.every else any(as_it_should)
    return code == expected.code and bool(named) and rows


def run(plant: Plant, commit: str) -> dict:
    """One run of a plant: all its steps, each a commit, each reviewed against the one before."""
    clone = clone_of(commit)
    codes, rights, undecided, rows = [], [], [], []
    start = time.monotonic()
    for edit, expected in plant.steps:
        base = git(clone, "rev-parse", "HEAD")
        edit(clone)
        git(clone, *WHO, "commit", "-q", "--allow-empty", "-a", "-m", "planted")
        report = clone / "build" / "review" / "report.md"
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tools.review", base]
        command += ["--only", plant.only] if plant.only else []
        done = subprocess.run(
            command, cwd=clone, env=environment(), capture_output=True, text=True, check=False
        )
        found = states(report.read_text(encoding="utf-8")) if report.exists() else {}
        codes.append(done.returncode)
        rights.append(right(expected, done.returncode, found))
        undecided.append(sorted(row for row, state in found.items() if state == UNDECIDED))
        rows.append(len(found))
    return {
        "codes": codes,
        "right": all(rights),
        "undecided": undecided,
        "rows": rows,
        "seconds": round(time.monotonic() - start, 1),
    }


def runs() -> list[dict]:
    """What was done so far."""
    if not RUNS.exists():
        return []
    return [json.loads(line) for line in RUNS.read_text(encoding="utf-8").splitlines()]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="python -m tools.review.trust", description=__doc__)
    parser.add_argument("plants", nargs="*", metavar="PLANT", help=", ".join(PLANTS))
    parser.add_argument("--times", type=int, default=TIMES, metavar="N", help=f"of each: {TIMES}")
    options = parser.parse_args(arguments)
    for name in options.plants:
        if name not in PLANTS:
            parser.error(f"PLANT: got {name!r}, wanted one of {', '.join(PLANTS)}")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Do what is left to do, and write the table of all that was done."""
    options = parse(arguments)
    commit, machine = git(ROOT, "rev-parse", "HEAD"), Machine.get_defaults()
    where = f"{machine['cpu']}, {machine['num_cpu']} cores"
    for name in options.plants or PLANTS:
        done = [each for each in runs() if (each["plant"], each["machine"]) == (name, where)]
        left = options.times - len(done)
        with progress(max(left, 0), f"{name}: {left} left", sys.stderr) as bar:
            for _ in range(left):
                found = run(PLANTS[name], commit)
                line = {"plant": name, "machine": where, "commit": commit[:10], **found}
                with RUNS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                files.write_text(TABLE, trust_table.markdown(runs()))
                bar.update()


if __name__ == "__main__":
    main()
