"""The review as a check of a pull request: `python -m tools.gate BASE`.

Reviews HEAD against BASE, leaves REPORT and the verdict as an annotation. Exit code 0 if all is
fine or undecided, which is a warning; otherwise 1. A review that wrote no report is one that did
not end, whatever its exit code.
"""

import os
import subprocess
import sys
from pathlib import Path

from tools import files

REPORT = Path("build/review/report.md")  # where the review writes it
OUTCOMES = {  # exit code of the review -> kind of annotation, and what it says
    0: ("notice", "all rows are fine"),
    1: ("error", "precision is worse"),
    2: ("error", "slower, or larger"),
    3: ("error", "something was not measured"),
    4: ("warning", "undecided: the noise of this run hides the changes that count"),
}
USAGE = "usage: python -m tools.gate BASE"


def judge(code):
    """The annotation for a review's exit code."""
    if not REPORT.exists() or code not in OUTCOMES:
        return "error", f"the review did not end: exit code {code}"
    return OUTCOMES[code]


def main():
    """As the module says."""
    if len(sys.argv) != 2:
        sys.exit(USAGE)
    REPORT.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tools.review", sys.argv[1]]
    kind, told = judge(subprocess.run(command, check=False).returncode)
    if not REPORT.exists():
        files.write_text(REPORT, f"{told}\n")
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as page:
            page.write(REPORT.read_text(encoding="utf-8"))
    print(f"::{kind} title=Review::{told}", flush=True)
    sys.exit(kind == "error")


if __name__ == "__main__":
    main()
