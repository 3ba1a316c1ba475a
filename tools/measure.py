"""Measures commits that were not measured yet: `python -m tools.measure quick|full [REVISIONS]`.

REVISIONS are git rev-list's words on commits, such as `main`, `v1..main` or `HEAD^!`, of which the
first parents count. Without any they are the newest commits up to the last that this machine has
measured, NEWEST at most.

Newest first, and each is recorded when it is done: a run that was ended, however that was, goes on
where it was. asv skips benchmark by benchmark, whatever the preset, so that is for the quick one;
the full one measures what it is given. Exit code 1: asv gave up, or a row failed.
"""

import os
import subprocess
import sys

from asv.config import Config
from asv.results import iter_results_for_machine

from benchmarks.presets import QUICK
from tools import asv_plugin
from tools.bench import ASV, ROOT, check_writable, git, machine

NEWEST = 5
ARGUMENTS = {"quick": ["--bench", QUICK, "--skip-existing"], "full": []}
USAGE = "usage: python -m tools.measure quick|full [REVISIONS]"


def listed(revisions):
    """The commits, newest first, but for those that cannot be built."""
    found = git("rev-list", "--first-parent", *revisions)
    if found is None:
        sys.exit(f"git knows no commits {' '.join(revisions)}")
    return [commit for commit in found.split() if git("cat-file", "-e", f"{commit}:setup.py") == ""]


def new_commits(results_dir, name):
    """Those since the last one that the machine has measured."""
    known = {result.commit_hash for result in iter_results_for_machine(results_dir, name)}
    found = []
    for commit in listed([f"--max-count={NEWEST}", "HEAD"]):
        if commit in known:
            break
        found.append(commit)
    return found


def main():
    """Measure, as the module says."""
    if len(sys.argv) < 2 or sys.argv[1] not in ARGUMENTS:
        sys.exit(USAGE)
    os.chdir(ROOT)  # asv reads asv.conf.json and the folders in it from here
    asv_plugin.install()
    results_dir, name = Config.load().results_dir, machine()["machine"]
    check_writable(ROOT / results_dir)
    commits = listed(sys.argv[2:]) if sys.argv[2:] else new_commits(results_dir, name)
    if not commits:
        print("Nothing to measure: there are no such commits, or all have results.")
        return
    print(f"Measuring {len(commits)} commits on {name}.", flush=True)
    command = [*ASV, "run", *ARGUMENTS[sys.argv[1]], "--show-stderr", "HASHFILE:-"]
    done = subprocess.run(command, cwd=ROOT, input="\n".join(commits), text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"asv run ended with exit code {done.returncode}; its output above says why")


if __name__ == "__main__":
    main()
