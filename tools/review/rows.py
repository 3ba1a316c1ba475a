"""The rows that a review must measure: rows.txt, which `python -m tools.review.rows` writes.

The file is committed, so that a benchmark which is gone is missed: what is expected does not come
from what is there. A test holds the file against the suites.
"""

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

from asv_runner.discovery import disc_benchmarks

from benchmarks.presets import QUICK, SFT_METHODS
from tools import files
from tools.limits import TARGET_PRESET

from . import instructions, speed
from .names import SECTIONS, SUITES, Name, parse

ROOT = Path(__file__).resolve().parent.parent.parent
MANIFEST = Path(__file__).with_name("rows.txt")

# Of asv's suites: all that is quick, and at full size what has a ceiling there. The ceilings of
# errors are those of training: an inference method's output lacks the exact LoRA part.
CEILINGS = rf"\.(RelativeError\.|Memory\.track_bytes_per_weight)\w*\('\w+_SFT', '{TARGET_PRESET}'"
OWN = {"Instructions": instructions, "Speed": speed}  # what a review measures by itself


def of_suites() -> Iterable[str]:
    """The rows that asv's suites give."""
    wanted = re.compile(f"{QUICK}|{CEILINGS}")
    for benchmark in disc_benchmarks(str(ROOT / "benchmarks")):
        if benchmark.name.split(".")[-2] in SUITES:
            for choice in itertools.product(*benchmark.params):
                name = f"{benchmark.name}({', '.join(choice)})"
                if wanted.search(name):
                    yield name


def of_review() -> Iterable[str]:
    """The rows that a review adds."""
    for suite, module in OWN.items():
        for choice in itertools.product(module.METRICS, SFT_METHODS, module.PRESETS):
            metric, method, preset = choice
            yield f"review.{suite}.{metric}({method!r}, {preset!r})"


def defined() -> list[str]:
    """What the manifest must name."""
    found = sorted([*of_suites(), *of_review()])
    return sorted(found, key=lambda name: SECTIONS.index(parse(name).section))


def expected() -> list[Name]:
    """What the committed manifest names."""
    return [parse(line) for line in MANIFEST.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Write the manifest."""
    names = defined()
    files.write_text(MANIFEST, "\n".join(names) + "\n")
    print(f"{len(names)} rows: {MANIFEST}")


if __name__ == "__main__":
    main()
