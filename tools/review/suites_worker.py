"""Runs rows of asv's suites, each in a fork of this process: `suites_worker FD PACKAGE`.

As asv does with its fork server: PyTorch is imported once, before the fork, and what a row leaves
in memory or breaks is gone with it.
"""

import contextlib
import itertools
import json
import math
import os
import signal
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

from asv_runner.discovery import disc_benchmarks

from benchmarks.case import native
from tools.child import one_line, serve

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 600  # of one row, as asv.conf.json has it


def check_package(package):
    """ImportError where another copy of the package would be measured."""
    found = Path(native().__file__).resolve()
    if Path(package).resolve() not in found.parents:
        raise ImportError(f"measuring {found}, wanted the extension in {package}")


class Suites:
    """All rows of all suites, by name, and a folder for the rows that share a setup_cache."""

    def __init__(self, root, scratch):
        self.scratch = scratch
        self.rows = {}
        self.folders = {}
        for benchmark in disc_benchmarks(str(root)):
            for index, choice in enumerate(itertools.product(*benchmark.params)):
                self.rows[f"{benchmark.name}({', '.join(choice)})"] = benchmark, index

    def run(self, name):
        """A dictionary: {"value": ...}, {"lacking": why} or {"failed": why}."""
        if name not in self.rows:
            return {"failed": "gone: no suite has this row"}
        benchmark, index = self.rows[name]
        folder = self.folder(benchmark)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            os.chdir(folder)
            signal.alarm(SECONDS)
            os.write(write, json.dumps(answer(benchmark, index)).encode())
            os._exit(0)
        os.close(write)
        with open(read, "rb") as pipe:
            written = pipe.read()
        _, status = os.waitpid(child, 0)
        if not written:
            code = os.waitstatus_to_exitcode(status)
            slow = f", which ends what takes {SECONDS} s" if -code == signal.SIGALRM else ""
            return {"failed": f"its process ended with exit code {code}{slow}"}
        return json.loads(written)

    def folder(self, benchmark):
        """Where the row runs: what asv's setup_cache made is there, and what other rows left."""
        key = benchmark.setup_cache_key
        if key not in self.folders:
            made = tempfile.mkdtemp(dir=self.scratch)
            with contextlib.chdir(made):
                self.folders[key] = made, benchmark.do_setup_cache() if key else None
        folder, cache = self.folders[key]
        benchmark.set_cache(cache)
        return folder


def answer(benchmark, index):
    """As Suites.run says, in the fork."""
    try:
        benchmark.set_param_idx(index)
        if benchmark.do_setup():
            return {"lacking": "not in this commit"}
        value = float(benchmark.do_run())
    except BaseException as error:  # a benchmark that exits has failed, too
        return {"failed": one_line(error)}
    if not math.isfinite(value):
        return {"failed": f"it gave {value}, wanted a finite number"}
    return {"value": value}


def main():
    """Answer names of rows, until the other end is closed."""
    connection = Connection(int(sys.argv[1]))
    check_package(sys.argv[2])
    with tempfile.TemporaryDirectory() as scratch:
        serve(connection, Suites(ROOT / "benchmarks", scratch).run)


if __name__ == "__main__":
    main()
