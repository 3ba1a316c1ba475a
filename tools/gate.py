"""The review as a check of a pull request: `python -m tools.gate BASE FOLDER`.

Reviews HEAD against BASE, leaves report.md in FOLDER and the verdict as an annotation. Exit code 0
if all is fine or undecided, which is a warning; otherwise 1. A review that wrote no report is one
that did not end, whatever its exit code.
"""

import os
import subprocess
import sys
from pathlib import Path

from tools import files

OUTCOMES = {  # exit code of the review -> kind of annotation, and what it says
    0: ("notice", "all rows are fine"),
    1: ("error", "precision is worse"),
    2: ("error", "slower, or larger"),
    3: ("error", "something was not measured"),
    4: ("warning", "undecided: the noise of this run hides the changes that count"),
}
USAGE = "usage: python -m tools.gate BASE FOLDER"


def judge(code, report):
    """The annotation for a review's exit code and its report's path."""
    if not report.exists() or code not in OUTCOMES:
        return "error", f"the review did not end: exit code {code}"
    return OUTCOMES[code]


def main():
    """As the module says."""
    if len(sys.argv) != 3:
        sys.exit(USAGE)
    base, report = sys.argv[1], Path(sys.argv[2]) / "report.md"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tools.review", base, "--report", str(report)]
    code = subprocess.run(command, check=False).returncode
    kind, told = judge(code, report)
    if not report.exists():
        files.write_text(report, f"{told}\n")
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as page:
            page.write(report.read_text(encoding="utf-8"))
    print(f"::{kind} title=Review::{told}", flush=True)
    sys.exit(kind == "error")


if __name__ == "__main__":
    main()
