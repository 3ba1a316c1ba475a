"""Measures commits that were not measured yet: `python -m tools.measure quick|full [REVISIONS]`.

REVISIONS are git rev-list's words on commits, such as `main`, `v1..main` or `HEAD^!`, of which the
first parents count. Without any they are the newest commits up to the last that this machine has
measured, NEWEST at most.

The newest first, then always the one farthest from all that are measured: a history of hours that
is ended early reaches from end to end. Each is recorded when it is done: a run that was ended,
however that was, goes on where it was. asv skips benchmark by benchmark, whatever the preset, so
that is for the quick one; the full one measures what it is given. Exit code 1: asv gave up, or a
row failed.
"""

import os
import sys

from asv import util
from asv.commands.run import Run
from asv.config import Config
from asv.console import log
from asv.results import iter_results_for_machine

from benchmarks.presets import QUICK
from tools import asv_plugin, lock
from tools.bench import ROOT, check_writable, git, machine

NEWEST = 5
OPTIONS = {
    "quick": {"bench": [QUICK], "skip_successful": True, "skip_failed": True},
    "full": {},
}
USAGE = "usage: python -m tools.measure quick|full [REVISIONS]"


def listed(revisions):
    """The commits, newest first, but for those that cannot be built."""
    found = git("rev-list", "--first-parent", *revisions)
    if found is None:
        sys.exit(f"git knows no commits {' '.join(revisions)}")
    return [commit for commit in found.split() if git("cat-file", "-e", f"{commit}:setup.py") == ""]


def measured(results_dir, name):
    """The commits that the machine has results of."""
    return {result.commit_hash for result in iter_results_for_machine(results_dir, name)}


def new_commits(known):
    """Those since the last one that the machine has measured."""
    found = []
    for commit in listed([f"--max-count={NEWEST}", "HEAD"]):
        if commit in known:
            break
        found.append(commit)
    return found


def in_order(commits, known):
    """The newest, then each time the farthest from any that is known or was chosen before.

    Known ones come last: what they lack is a benchmark that is new or was changed.
    """
    distance = [
        min((abs(i - j) for j, other in enumerate(commits) if other in known), default=len(commits))
        for i in range(len(commits))
    ]
    chosen = []
    for _ in commits:
        first = not chosen and commits[0] not in known
        at = 0 if first else max(range(len(commits)), key=lambda i: (distance[i], -i))
        if distance[at] == 0:
            break
        chosen.append(commits[at])
        distance = [min(far, abs(i - at)) for i, far in enumerate(distance)]
    return chosen + [commit for commit in commits if commit in known]


def main():
    """Measure, as the module says."""
    if len(sys.argv) < 2 or sys.argv[1] not in OPTIONS:
        sys.exit(USAGE)
    os.chdir(ROOT)  # asv reads asv.conf.json and the folders in it from here
    asv_plugin.install()
    config, name = Config.load(), machine()["machine"]
    results_dir = config.results_dir
    check_writable(ROOT / results_dir)
    known = measured(results_dir, name)
    commits = listed(sys.argv[2:]) if sys.argv[2:] else new_commits(known)
    if not commits:
        print("Nothing to measure: there are no such commits, or all have results.")
        return
    print(f"Measuring {len(commits)} commits on {name}.", flush=True)
    log.enable(False)
    code = 0
    with lock.measuring("tools.measure"):
        # Each by itself: asv would interleave the rounds of several, too.
        for number, commit in enumerate(in_order(commits, known), 1):
            print(f"{commit[:10]}, {number} of {len(commits)}", flush=True)
            try:
                done = Run.run(
                    config,
                    range_spec=[commit],
                    show_stderr=True,
                    interleave_rounds=True,
                    **OPTIONS[sys.argv[1]],
                )
            except util.UserError as error:
                sys.exit(f"asv could not measure {commit[:10]}: {error}")
            code = max(code, done or 0)
    if code != 0:
        sys.exit(f"asv run ended with exit code {code}; its output above says why")


if __name__ == "__main__":
    main()
