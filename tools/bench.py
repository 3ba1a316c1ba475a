"""What stands behind `make bench`: measures the quick preset, publishes, prints a table.

Exit code 0: every row of HEAD was measured or is n/a; 1: not, and a line says why.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from asv import util
from asv.benchmarks import Benchmarks
from asv.config import Config
from asv.machine import Machine, MachineCollection

from benchmarks.presets import QUICK
from tools import asv_plugin, history, results_table

ROOT = Path(__file__).resolve().parent.parent
ASV = [sys.executable, "-m", "asv"]
SOME_ROWS_FAILED = 2  # asv run's exit code
PROBE_BYTES = 1 << 20  # more than the results of one commit take


def git(*arguments):
    """A git command's output, or None where it fails."""
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


def commits():
    """HEAD and the commit before, or None where history has none that can be built.

    SystemExit where there is no commit at all.
    """
    head = git("rev-parse", "--verify", "HEAD")
    if head is None:
        sys.exit("asv measures commits: run this in a git clone with at least one commit")
    before = git("rev-parse", "--verify", "HEAD~1")
    if before and git("cat-file", "-e", f"{before}:setup.py") is None:
        before = None
    return head, before


def check_writable(folder):
    """SystemExit, before anything is measured, where the folder cannot take the results."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        sys.exit(f"cannot write results to {folder}: {error.strerror}")


def machine():
    """What asv knows of this machine; the first time it takes the system's word for it."""
    name = Machine.get_unique_machine_name()
    try:
        return MachineCollection.load(name)
    except util.UserError:
        subprocess.run([*ASV, "machine", "--yes"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return MachineCollection.load(name)


def measure(hashes):
    """Run asv on the quick preset, the commits taking turns.

    False where some rows failed, SystemExit where asv gave up.
    """
    command = [*ASV, "run", "--bench", QUICK, "--interleave-rounds", "--show-stderr", "HASHFILE:-"]
    done = subprocess.run(command, cwd=ROOT, input="\n".join(hashes), text=True, check=False)
    if done.returncode not in (0, SOME_ROWS_FAILED):
        sys.exit(f"asv run failed with exit code {done.returncode}; its output above says why")
    return done.returncode == 0


def publish():
    """Make the dashboard; False where asv could not."""
    return subprocess.run([*ASV, "publish"], cwd=ROOT, check=False).returncode == 0


def describe(commit):
    """Short hash and subject."""
    return git("log", "-1", "--format=%h %s", commit)


def main():
    """Measure, publish and print, as the module says."""
    os.chdir(ROOT)  # asv reads asv.conf.json and the folders in it from here
    asv_plugin.install()
    config = Config.load()
    head, before = commits()
    check_writable(ROOT / config.results_dir)
    if git("status", "--porcelain"):
        print("Changes that are not committed are not measured: asv builds commits.")
    info = machine()
    print("Measuring. asv's environment and the builds take minutes the first time.", flush=True)
    complete = measure([head, before] if before else [head])
    published = publish()

    benchmarks = Benchmarks.load(config, regex=QUICK)
    current, old = (
        commit and history.newest(config.results_dir, info["machine"], commit)
        for commit in (head, before)
    )
    rows = results_table.make_rows(benchmarks, current, old)
    failed = [row for row in rows if row.now.value is None]
    print(f"\n{describe(head)}")
    print(f"against {describe(before)}" if before else "without a commit before to compare with")
    print(f"on {info['cpu']}, {info['num_cpu']} cores\n")
    print(results_table.format_table(rows))
    print("\n~ noise: the 99% intervals of the two timings overlap. Lower is better everywhere.")
    if failed:
        print(f"{len(failed)} of {len(rows)} rows of HEAD failed; asv's output above says why.")
    elif not complete:
        print("Rows of the commit before failed; HEAD's are complete.")
    if published:
        print(f"Dashboard: {config.html_dir}/index.html, from disk or by .venv/bin/asv preview")
    else:
        print("The dashboard was not published; asv's output above says why.")
    sys.exit(1 if failed or not published else 0)


if __name__ == "__main__":
    main()
