"""Instructions of the AVX2 path, counted by callgrind: they say whether the code does more work.

One process without PyTorch runs all formats on tiny layers, on one thread. It calls getppid around
each step, and callgrind writes what was counted whenever that is called.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.presets import FORMATS, GROUP

from .builds import Build
from .names import Name
from .outcome import Outcome, failed, lacking

METRICS = ("count_load", "count_forward", "count_training_step")
# Experts, hidden, intermediate, tokens: 32 tokens per expert, and 2, which other kernels compute.
SHAPES = {"tiny-compute": (2, 256, 256, 64), "tiny-memory": (2, 384, 128, 4)}
PRESETS = tuple(SHAPES)
MISSING = "valgrind is missing: apt-get install valgrind"
TOTALS = re.compile(r"^totals: (\d+)", re.MULTILINE)
SCRIPT = Path(__file__).with_name("counted.py")


def measure(build: Build, names: Iterable[Name], tick: Callable[[], object]) -> dict[str, Outcome]:
    """An Outcome for each row of one side; `tick` is called after each."""
    names = list(names)
    with tempfile.TemporaryDirectory() as scratch:
        counted = count(build, plan(names), Path(scratch))
    found = {}
    for name in names:
        answer = counted if isinstance(counted, Outcome) else counted[name.whole]
        found[name.whole] = answer
        tick()
    return found


def plan(names: list[Name]) -> list[dict]:
    """The layers to make, and the rows that each gives."""
    layers: dict = {}
    for name in names:
        rows = layers.setdefault((name.method, name.preset), {})
        rows[name.metric] = name.whole
    return [
        {
            "format": FORMATS[method].name,
            "group": GROUP,
            "shape": SHAPES[preset],
            "rows": rows,
        }
        for (method, preset), rows in layers.items()
    ]


def count(build: Build, layers: list[dict], scratch: Path) -> dict[str, Outcome] | Outcome:
    """An Outcome for each row of the layers, or one for all."""
    if not shutil.which("valgrind"):
        return failed(MISSING)
    answers = scratch / "answers.json"
    command = ["valgrind", "--tool=callgrind", "--dump-before=getppid"]
    command += [f"--callgrind-out-file={scratch / 'counts'}"]
    command += [sys.executable, "-P", "-S", SCRIPT, build.extension, answers, json.dumps(layers)]
    environment = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        command, cwd=scratch, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        # valgrind's own lines begin with its process number: ==123==
        said = [line for line in done.stderr.splitlines() if line and not line.startswith("==")]
        return failed(f"counting failed: {said[-1] if said else done.returncode}")
    counts = {int(path.suffix[1:]): total(path) for path in scratch.glob("counts.*")}
    found = {}
    for row, answer in json.loads(answers.read_text()).items():
        if "count" in answer:
            found[row] = Outcome(counts[answer["count"]])
        else:
            make = lacking if "lacking" in answer else failed
            found[row] = make(*answer.values())
    return found


def total(path: Path) -> int:
    """The instructions in one of callgrind's files."""
    found = TOTALS.search(path.read_text())
    if not found:
        raise ValueError(f"{path.name} of callgrind has no totals")
    return int(found[1])
