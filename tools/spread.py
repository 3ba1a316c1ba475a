"""A benchmark of the benchmarks: `python -m tools.spread [PASSES]`, ten without an argument.

Measures HEAD's quick preset again and again, each pass over all of it, so that the values of a row
are minutes apart. Prints for each benchmark how far its rows spread and the smallest change that
two runs can tell from noise. Passes are kept under .asv/spread: a run that was ended goes on, and
more passes can be added. Exit code 1: a row failed, or is noisier than MOST_NOISE.
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev

from asv.benchmarks import Benchmarks
from asv.commands.run import Run
from asv.config import Config
from asv.console import log
from tabulate import tabulate

from benchmarks.presets import QUICK
from tools import asv_plugin, history, lock
from tools.bench import ROOT, describe, git, machine
from tools.changes import FLOOR_OVER_DEVIATION

PASSES = 10
MOST_NOISE, MOST_NOISE_BY_DIFFERENCE = 0.05, 1.0  # deviations: over the mean, in the row's unit
USAGE = "usage: python -m tools.spread [PASSES], at least 2"


@dataclass(frozen=True)
class Spread:
    """Of a row over all passes; changes are fractions, or in the row's unit if by difference."""

    row: history.Row
    deviation: float
    width: float  # from the least value to the largest

    @property
    def detectable(self):
        """The smallest change between two runs that noise passes once in a hundred times only."""
        return FLOOR_OVER_DEVIATION * self.deviation

    @property
    def noisy(self):
        """Whether the row needs a better method."""
        most = MOST_NOISE_BY_DIFFERENCE if self.row.by_difference else MOST_NOISE
        return self.deviation > most


def spread(row):
    """The Spread of a row all of whose points are numbers."""
    values = [value for _, value in row.numbers]
    scale = 1 if row.by_difference else fmean(values)
    return Spread(row, stdev(values) / scale, (max(values) - min(values)) / scale)


def measure_pass(conf, folder, head):
    """One pass into a folder of its own, with the seconds that it took, unless it is there."""
    whole = folder / "seconds"  # written last: what was interrupted is measured again
    if whole.exists():
        return
    conf.results_dir = str(folder)
    started = time.time()
    Run.run(conf, range_spec=[head], bench=[QUICK], show_stderr=True, interleave_rounds=True)
    whole.write_text(f"{time.time() - started:.0f}")


def shown(value, row):
    """A deviation or a change."""
    return f"{value:.2f} {row.unit}" if row.by_difference else f"{100 * value:.1f}%"


def benchmark_table(found):
    """A line for each benchmark: its rows' median and worst."""
    lines = []
    for name in sorted({one.row.benchmark for one in found}):
        mine = [one for one in found if one.row.benchmark == name]
        worst = max(mine, key=lambda one: one.deviation)
        row = worst.row
        lines.append(
            (
                name.split(".", 1)[1],
                len(mine),
                shown(median(one.deviation for one in mine), row),
                shown(worst.deviation, row),
                shown(worst.width, row),
                shown(median(one.detectable for one in mine), row),
                shown(worst.detectable, row),
            )
        )
    heads = ("benchmark", "rows", "deviation", "worst", "its width", "detects", "worst")
    return tabulate(lines, headers=heads, tablefmt="github", disable_numparse=True)


def main():
    """Measure and print."""
    if len(sys.argv) > 2 or (len(sys.argv) == 2 and not sys.argv[1].isdigit()):
        sys.exit(USAGE)
    passes = int(sys.argv[1]) if len(sys.argv) == 2 else PASSES
    if passes < 2:
        sys.exit(USAGE)
    os.chdir(ROOT)
    asv_plugin.install()
    conf, head, info = Config.load(), git("rev-parse", "HEAD"), machine()
    folders = [Path(".asv/spread") / head / str(number) for number in range(passes)]
    log.enable(False)
    with lock.measuring("tools.spread"):
        for folder in folders:
            measure_pass(conf, folder, head)
    conf.results_dir = str(folders[-1])  # the list of benchmarks lies there, too
    found = [history.newest(str(folder), info["machine"], head) for folder in folders]
    rows = history.make_rows(Benchmarks.load(conf, regex=QUICK), found)
    whole = [row for row in rows if len(row.numbers) == passes]
    spreads = [spread(row) for row in whole]
    noisy = [one for one in spreads if one.noisy]
    seconds = [int((folder / "seconds").read_text()) for folder in folders]
    print(f"\n{describe(head)}, {passes} passes of {min(seconds)} to {max(seconds)} s")
    print(f"on {info['cpu']}, {info['num_cpu']} cores\n\n{benchmark_table(spreads)}\n")
    for one in sorted(noisy, key=lambda one: -one.deviation):
        place = " ".join(filter(None, (one.row.param("method"), one.row.param("preset"))))
        print(f"noisy: {one.row.benchmark} {place}: {shown(one.deviation, one.row)}")
    print(
        f"{len(noisy)} of {len(rows)} rows are too noisy, {len(rows) - len(whole)} were not whole"
    )
    sys.exit(1 if noisy or len(whole) < len(rows) else 0)


if __name__ == "__main__":
    main()
