"""The review as a check: which exit codes stop a pull request, and what is left to be read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tools import gate as gate_module
from tools.review import command

ROOT = Path(__file__).resolve().parent.parent
# Takes the review's place: writes a report if it is told to, ends with the code it is told.
REVIEW = """
import os, sys
from pathlib import Path
assert sys.argv[1:] == ["main"]
if os.environ["REPORT"]:
    Path("build/review/report.md").write_text(os.environ["REPORT"])
sys.exit(int(os.environ["CODE"]))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "build" / "review").mkdir(parents=True)
    for name in ("gate.py", "files.py", "__init__.py"):
        (tmp_path / "tools" / name).write_text((ROOT / "tools" / name).read_text())
    (tmp_path / "tools" / "review.py").write_text(REVIEW)
    return tmp_path


def gate(folder, code, report="# Review\n"):
    return subprocess.run(
        [sys.executable, "-m", "tools.gate", "main"],
        cwd=folder,
        env={
            **os.environ,
            "CODE": str(code),
            "REPORT": report,
            "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("code", "stops", "kind"),
    [(0, 0, "notice"), (1, 1, "error"), (2, 1, "error"), (3, 1, "error"), (4, 0, "warning")],
)
def test_a_verdict_stops_or_warns(folder, code, stops, kind):
    done = gate(folder, code)
    assert done.returncode == stops, done.stderr
    assert done.stdout.startswith(f"::{kind} title=Review::")
    for left in (gate_module.REPORT, "summary.md"):
        assert (folder / left).read_text() == "# Review\n"


@pytest.mark.parametrize("code", [0, 1, 4, 137])
def test_a_review_without_a_report_did_not_end(folder, code):
    (folder / gate_module.REPORT).write_text("of an earlier review")
    done = gate(folder, code, report="")
    told = f"the review did not end: exit code {code}"
    assert done.returncode == 1
    assert done.stdout == f"::error title=Review::{told}\n"
    assert (folder / gate_module.REPORT).read_text() == f"{told}\n"


def test_a_code_that_means_nothing_stops(folder):
    done = gate(folder, 9)
    assert done.returncode == 1
    assert "did not end: exit code 9" in done.stdout


def test_without_a_review_it_stops(folder):
    (folder / "tools" / "review.py").unlink()
    done = gate(folder, 0)
    assert done.returncode == 1
    assert "did not end" in done.stdout


def test_the_review_takes_what_the_gate_gives_it_and_writes_where_it_looks():
    assert command.parse(["main"]).base == "main"
    assert ROOT / gate_module.REPORT == command.FOLDER / "report.md"
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "review.yml").read_text())
    (upload,) = [s for s in workflow["jobs"]["review"]["steps"] if "upload" in s.get("uses", "")]
    assert upload["with"]["path"] == str(gate_module.REPORT)
