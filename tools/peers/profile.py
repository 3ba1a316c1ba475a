"""Where a call's time goes: the threads' CPU time by kind of work, sampled by Linux's perf."""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.case import Case, native
from benchmarks.presets import BF16, FORMATS, PRESETS, SFT_METHODS
from benchmarks.roofline import PASSES

from .cells import SHAPES, step

MISSING = "no profile: perf is missing (Debian's linux-perf)"
UNKNOWN = "no profile: perf saw none of the extension's products"
SAMPLES = 997  # a second, of each thread that works
CALLS, SECONDS = 5, 3.0  # at least

# Kinds of work, and the functions of the extension that do it. What they call is mostly inlined:
# unpacking a panel is the loop nest's own time. The first that matches is taken.
KINDS = {
    "LoRA": r"\b(outer\w*|store_rows)<|\b(gemm|products|tile_blocks?)<.*Unpacked",
    "rounding": r"\bround_rows?<",
    "elements": r"\b(swiglu\w*|scatter_add|sum_parts|to_act|first_not_finite)<",
    # With AMX what unpacks panels stands between the products, in the same functions.
    "products": r"\b(integer_tile\w*|\w*tile|tile_rows|tiles|tile_blocks?|direct\w*|add_\w+)<"
    r"|\b(VnniWith<|Amx::(gemm|products)<)",
    "panels": r"\b(gemm\w*|integer_multiply|multiply\w*|pack_\w+|Unpacking|\w+Unpacker)<",
    "waiting": r"\bPool\b|gomp_|GOMP_|kmp",
}
# Floating-point tiles: where the weights are integer codes they are LoRA's, else of both.
FLOAT_TILES = r"\b(\w+::tile|avx512_tile|tiles|tile_rows|multiply\w*|direct)<"
OTHER = "other"


def kind_of(symbol: str, integers: bool) -> str:
    """The kind of work that a function does, by its demangled name."""
    name = symbol.replace("(anonymous namespace)::", "").partition("(")[0]
    if integers and re.search(FLOAT_TILES, name):
        return "LoRA"
    return next((kind for kind, functions in KINDS.items() if re.search(functions, name)), OTHER)


def measure(told) -> list[dict]:
    """Of each method and shape, forward and backward: seconds, and shares of the threads' time.

    What is left of 1 is time that a thread was not on a core. `told` takes a line on what is not
    measured.
    """
    if shutil.which("perf") is None:
        told(MISSING)
        return []
    profiles = []
    for shape in SHAPES:
        first = Case(SFT_METHODS[0], PRESETS[shape])
        for method in SFT_METHODS:
            case = first.another(method).load()
            step(case)
            try:
                seconds, symbols = sample(lambda case=case: step(case))
            except subprocess.CalledProcessError as error:
                told(f"no profile: perf: {' '.join(error.stderr.split())}")
                return []
            found = shares(symbols, FORMATS[method] != BF16)
            if not found["products"]:
                told(UNKNOWN)
                return []
            profiles.append(
                {"shape": shape, "passes": PASSES[1], "method": method, "seconds": seconds}
                | {"shares": found}
            )
    return profiles


def shares(symbols: dict[str, float], integers: bool) -> dict[str, float]:
    """By kind of work; `symbols` has the share of each function."""
    found = dict.fromkeys([*KINDS, OTHER], 0.0)
    for symbol, share in symbols.items():
        found[kind_of(symbol, integers)] += share
    return found


def ahead_of_us() -> list[str]:
    """What starts a program so that we, calling in real time on all cores, leave it one."""
    if os.sched_getscheduler(0) not in (os.SCHED_FIFO, os.SCHED_RR):
        return []
    most = os.sched_get_priority_max(os.SCHED_FIFO)
    return ["chrt", "--fifo", str(min(most, os.sched_getparam(0).sched_priority + 1))]


def sample(call) -> tuple[float, dict[str, float]]:
    """Seconds of a call, and the share of each function in the CPU time of all threads.

    CalledProcessError, with perf's words, where it may not sample.
    """
    start = time.perf_counter()
    call()
    seconds = max(SECONDS, CALLS * (time.perf_counter() - start))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "perf.data"
        record = ["perf", "record", "--quiet", "--event", "cpu-clock", "--freq", str(SAMPLES)]
        record += ["--output", str(data), "--pid", str(os.getpid()), "--", "sleep", str(seconds)]
        record = [*ahead_of_us(), *record]
        with subprocess.Popen(record, stderr=subprocess.PIPE, text=True) as perf:
            calls, start = 0, time.perf_counter()
            while perf.poll() is None:
                call()
                calls += 1
            each = (time.perf_counter() - start) / max(calls, 1)
            if perf.returncode:
                words = perf.stderr.read() if perf.stderr else ""
                raise subprocess.CalledProcessError(perf.returncode, record, stderr=words)
        script = ["perf", "script", "--input", str(data), "--fields", "time,ip,sym"]
        done = subprocess.run(script, capture_output=True, text=True, check=True)
    symbols, sampled = counted(done.stdout)
    whole = max(1.0, SAMPLES * sampled * native().cpu_count())
    return each, {symbol: count / whole for symbol, count in symbols.items()}


def counted(script: str) -> tuple[Counter[str], float]:
    """Samples of each function, and seconds from the first to the last.

    The lines of `perf script` have a time, an address and a name. That perf was to stop after so
    many seconds says little: it may wait for a core for longer than that.
    """
    lines = [fields for line in script.splitlines() if (fields := line.split(maxsplit=2))]
    times = [float(fields[0].rstrip(":")) for fields in lines]
    names = Counter(fields[2] if len(fields) == 3 else "" for fields in lines)
    return names, max(times, default=0.0) - min(times, default=0.0)
