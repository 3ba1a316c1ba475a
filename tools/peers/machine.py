"""Which machine, which software, when: what a table of times must say."""

import subprocess
from datetime import datetime, timezone
from pathlib import Path

import torch

from benchmarks.case import native

ROOT = Path(__file__).resolve().parent.parent.parent


def first_processor(cpuinfo: str) -> dict[str, str]:
    """The fields of the first processor in the text of /proc/cpuinfo."""
    fields = (line.partition(":") for line in cpuinfo.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in fields}


def kind(processor: dict[str, str]) -> str:
    """The name under which targets.py knows such CPUs, or "" where it has none for it."""
    if processor.get("vendor_id") != "AuthenticAMD":
        return ""
    family, wide = processor.get("cpu family"), "avx512f" in processor.get("flags", "").split()
    if family == "26":
        return "Zen 5"
    return "Zen 4" if family == "25" and wide else ""  # family 25 without AVX-512 is Zen 3


def commit() -> str:
    """HEAD's short hash, with a + where the tree differs from it; "" outside of a clone."""
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=10", "--dirty=+"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def describe() -> dict:
    """All of it, as the results file has it."""
    processor = first_processor(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return {
        "cpu": processor.get("model name", "unknown CPU"),
        "family": processor.get("cpu family", "?"),
        "model": processor.get("model", "?"),
        "kind": kind(processor),
        "isa": native().isa(),
        "threads": native().cpu_count(),
        "torch": torch.__version__,
        "commit": commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }
