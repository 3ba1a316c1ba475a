"""Names the rows that HEAD should have a value for and has none: `python -m tools.missing_rows`.

Its argument is quick or full, as of tools/measure.py. Missing is what failed, what is n/a, and a
benchmark that the commit measured before has and HEAD's suites do not define any more. Exit code 1
if there is any.
"""

import os
import sys

from asv.benchmarks import Benchmarks
from asv.config import Config
from asv.results import iter_results_for_machine

from benchmarks.presets import QUICK
from tools import asv_plugin, history, results_table
from tools.bench import ROOT, describe, git, machine

SELECTED = {"quick": QUICK, "full": None}
USAGE = "usage: python -m tools.missing_rows quick|full"


def missing(benchmarks, defined, current, before):
    """A line for each row of the selected benchmarks without a number, and for each that is gone.

    defined: all names that HEAD's suites have; current, before: results.Results or None.
    """
    lines = [
        f"{' '.join(filter(None, (f'{r.suite}.{r.metric}', r.method, r.preset)))}: "
        f"{results_table.format_value(r.now, r.unit)}"
        for r in results_table.make_rows(benchmarks, current, None)
        if not r.now.is_number
    ]
    recorded = set(before.get_all_result_keys()) if before else set()
    return lines + [f"{name}: gone since the commit before" for name in sorted(recorded - defined)]


def commit_before(results_dir, name, current):
    """The newest result of an earlier commit on the machine, or None."""
    found = [
        result
        for result in iter_results_for_machine(results_dir, name)
        if result.commit_hash != current.commit_hash and result.date <= current.date
    ]
    return max(found, key=lambda result: result.date, default=None)


def main():
    """As the module says."""
    if len(sys.argv) != 2 or sys.argv[1] not in SELECTED:
        sys.exit(USAGE)
    os.chdir(ROOT)
    asv_plugin.install()
    config, head, name = Config.load(), git("rev-parse", "HEAD"), machine()["machine"]
    current = history.newest(config.results_dir, name, head)
    if current is None:
        sys.exit(f"{describe(head)} was not measured on {name}")
    lines = missing(
        Benchmarks.load(config, regex=SELECTED[sys.argv[1]]),
        set(Benchmarks.load(config)),
        current,
        commit_before(config.results_dir, name, current),
    )
    print("\n".join(lines) or "no row is missing")
    sys.exit(f"{len(lines)} rows of {describe(head)} are missing" if lines else 0)


if __name__ == "__main__":
    main()
