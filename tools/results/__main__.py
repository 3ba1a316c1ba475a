"""Results of all machines on one branch, asv-results: `python -m tools.results push|pull [REMOTE]`.

push adds this clone's results to the remote's branch, pull brings the branch's into this clone's
folder; neither takes anything away (merge.py). Several may push at once: whoever is late fetches
what came in between, merges and pushes again. Exit code 1 with a line where git or a file fails.
"""

import os
import random
import re
import sys
import time
from pathlib import Path

from asv.config import Config

from tools import files
from tools.results import branch
from tools.results.merge import merge

ROOT = Path(__file__).resolve().parent.parent.parent
TRIES = 12
RESULT = re.compile(r"([^/.][^/]*/)?[^/.][^/]*\.json")  # as read_folder finds them: nothing above
USAGE = "usage: python -m tools.results push|pull [REMOTE]"


def read_folder(folder):
    """The result files of a folder as merge takes them."""
    found = sorted([*folder.glob("*.json"), *folder.glob("*/*.json")])
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def tell(line):
    """A line on what was left out, and why."""
    print(line, file=sys.stderr, flush=True)


def push(remote, folder):
    """Merge this clone's results into the remote's branch."""
    ours = read_folder(folder)
    for attempt in range(TRIES):
        parent = branch.fetch(remote)
        theirs = branch.read(parent) if parent else {}
        merged = merge(ours, theirs, tell)
        changed = sum(theirs.get(path) != data for path, data in merged.items())
        if not changed:
            break
        commit = branch.commit_files(merged, theirs, parent, f"{changed} files of results")
        try:
            branch.offer(remote, commit)
            break
        except branch.GitError:  # someone was faster, or git cannot: the last try's words count
            if attempt == TRIES - 1:
                raise
            time.sleep(random.uniform(0, 0.1 * 2 ** min(attempt, 6)))
    print(f"{changed} of {len(merged)} files were new to {remote}")


def pull(remote, folder):
    """Merge the remote's branch into this clone's results."""
    commit = branch.fetch(remote)
    found = branch.read(commit) if commit else {}
    theirs = {path: data for path, data in found.items() if RESULT.fullmatch(path)}
    ours = read_folder(folder)
    merged = merge(theirs, ours, tell)
    changed = {path: data for path, data in merged.items() if ours.get(path) != data}
    for path, data in changed.items():
        files.write_bytes(folder / path, data)
    print(f"{len(changed)} of {len(merged)} files were new here")


def main():
    """As the module says."""
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in ("push", "pull"):
        sys.exit(USAGE)
    os.chdir(ROOT)
    remote = sys.argv[2] if len(sys.argv) == 3 else "origin"
    folder = ROOT / Config.load().results_dir
    try:
        (push if sys.argv[1] == "push" else pull)(remote, folder)
    except branch.GitError as error:
        sys.exit(f"git failed: {error}")
    except OSError as error:
        sys.exit(f"cannot write results: {error}")


if __name__ == "__main__":
    main()
