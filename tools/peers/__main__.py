"""`make peers`: this machine's limits, our methods, PyTorch and kt-kernel, measured in turns."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tools import files, lock
from tools.bench import check_writable

from . import cells, decode, loop, overhead, picture, profile, routing, sweep, table, threads
from .kt_kernel_peer import KtKernel, PeerError
from .machine import ROOT, describe
from .results import write_results
from .targets import TARGETS

ROUNDS = 7  # calls of which the median counts
BESIDE = ("threads", "routing", "decode", "loop", "overhead")
NO_KT = "kt-kernel is not measured: KT_PEER_PYTHON, or --kt-kernel, is to be its own Python"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command's options."""
    parts = [*cells.SHAPES, "sweep", *BESIDE, "profile"]
    parser = argparse.ArgumentParser(prog="python -m tools.peers", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART")
    parser.add_argument(
        "--kt-kernel",
        metavar="PYTHON",
        default=os.environ.get("KT_PEER_PYTHON"),
        help="of an environment that has PyPI's kt-kernel (or KT_PEER_PYTHON)",
    )
    parser.add_argument("--results", type=Path, default=ROOT / ".peers", metavar="FOLDER")
    parser.add_argument(
        "--pictures",
        type=Path,
        default=ROOT / "docs",
        metavar="FOLDER",
        help="roofline, sweep, profile.svg",
    )
    parser.epilog = f"parts: {' '.join(parts)}; pictures are drawn of what was measured whole"
    return parser.parse_args(arguments)


def measure(part: str, results: dict, rounds: int, start_kt: Callable[[], KtKernel] | None) -> None:
    """One part into the results."""
    cells.measure_limits(results["limits"])
    if part in cells.SHAPES:
        # A process for each shape: kt-kernel keeps the memory of its layers as long as it lives.
        with closing(start_kt()) if start_kt else nullcontext() as kt:
            results["cells"] += cells.measure_shape(part, rounds, kt, results["notes"].append)
    elif part == "sweep":
        results["sweep"] = sweep.measure(rounds)
    elif part == "profile":
        results["profile"] = profile.measure(results["notes"].append)
    elif part == "decode":
        found = decode.measure(rounds, results["limits"]["bandwidth"])
        results["findings"] += map(asdict, found)
    else:
        modules = {"threads": threads, "routing": routing, "loop": loop, "overhead": overhead}
        results["findings"] += map(asdict, modules[part].measure(rounds))
    cells.measure_limits(results["limits"])


def report(results: dict) -> str:
    """All that is to be said of the results."""
    machine = results["machine"]
    where = f"{machine['cpu']} (family {machine['family']}, model {machine['model']})"
    lines = [
        "",
        f"{where}, {machine['isa']}, {machine['threads']} threads",
        f"{machine['date']}, commit {machine['commit']}, PyTorch {machine['torch']}",
        f"limits: {table.limits_line(results['limits'])}",
        *results["notes"],
    ]
    if results["cells"]:
        kinds = " and ".join(TARGETS)
        lines += ["", table.cells_table(results), "", table.summary_table(results), ""]
        lines += ["Ratios are the peer's time over ours; ! is under the target, or slower than it."]
        if not machine["kind"]:
            lines.append(f"There is no table of targets for this CPU, only for {kinds}.")
        lines += kt_lines(results["cells"])
    if results["findings"]:
        lines += ["", table.findings_table(results["findings"]), "", "! misses its bar."]
    if results["profile"]:
        lines += ["", table.profile_table(results)]
    if results["sweep"]:
        lines += ["", *(sweep.cliffs(results["sweep"]) or ["The sweep has no cliff."])]
    return "\n".join(lines)


def kt_lines(cells: list[dict]) -> list[str]:
    """What must be known of kt-kernel's times in the table."""
    theirs = {cell["method"]: cell["kt"] for cell in cells if "kt" in cell}
    lines = []
    for trains, said in (
        (True, "where its class trains, the time inside its kernels"),
        (False, "where it does not, a call's time by the clock, without LoRA, which ours computes"),
    ):
        if any(kt["trains"] == trains for kt in theirs.values()):
            lines.append(f"kt-kernel's time is, {said}.")
    grouped = [kt for method, kt in theirs.items() if "KGroup" in method]
    if grouped:
        rank = " and its LoRA rank with them 8, not 16" if grouped[0]["trains"] else ""
        lines.append(f"kt-kernel's groups are of 32, not 128{rank}.")
    return lines


def draw(results: dict, folder: Path) -> list[str]:
    """The pictures of what was measured whole; their paths, a line each."""
    drawn = {}
    if {cell["shape"] for cell in results["cells"]} == set(cells.SHAPES):
        drawn["roofline.svg"] = picture.roofline_svg(results)
    if results["sweep"]:
        drawn["sweep.svg"] = picture.sweep_svg(results)
    if {each["shape"] for each in results["profile"]} == set(cells.SHAPES):
        drawn["profile.svg"] = picture.profile_svg(results)
    for name, text in drawn.items():
        files.write_text(folder / name, text)
    return [f"drawn: {folder / name}" for name in drawn]


def main(arguments: list[str] | None = None, rounds: int = ROUNDS) -> None:
    """Measure, write and print; SystemExit with a line where something is in the way."""
    options = parse(arguments)
    for folder in (options.results, options.pictures):
        check_writable(folder)
    results = {"machine": describe(), "limits": {}, "notes": [], "cells": [], "sweep": []}
    results |= {"findings": [], "profile": []}
    path = options.results / f"{time.strftime('%Y-%m-%dT%H%M%S')}.json"
    start_kt = None
    if options.kt_kernel:
        start_kt = partial(KtKernel, options.kt_kernel, dict(os.environ))
        try:
            with closing(start_kt()) as kt:
                about = kt.about()
        except PeerError as error:
            sys.exit(str(error))
        results["notes"].append(f"kt-kernel {about['version']}, its build {about['build']}")
    elif set(options.only) & set(cells.SHAPES):
        results["notes"].append(NO_KT)
    with lock.measuring("make peers"):
        for part in options.only:
            measure(part, results, rounds, start_kt)
            write_results(path, results)  # after each part: what a long run has is not lost
    print(report(results))
    print("\n".join([f"results: {path}", *draw(results, options.pictures)]))


if __name__ == "__main__":
    main()
