"""`python -m kt_kernel`: one screen on what this machine can do and what will be used."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import kt_kernel
from kt_kernel.methods import METHODS


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _percent(limit: float | None) -> str:
    return "-" if limit is None else f"{limit:.0%}"


def _wrapped(line: str) -> str:
    return textwrap.fill(line, 80, subsequent_indent=" " * 15)


def report(ext: ModuleType) -> str:
    """The text, at most 24 lines of 80 characters while there are few methods."""
    forced = os.environ.get("KT_KERNEL_ISA")
    how = f"forced by KT_KERNEL_ISA={forced}" if forced else "the best that this CPU supports"
    lines = [
        f"kt_kernel {kt_kernel.__version__} on {_cpu_name()}"[:80],
        f"{ext.cpu_count()} cores that this process may use, {ext.numa_nodes()} NUMA node(s)",
        "",
        f"instruction sets (in use: {ext.isa()}, {how})",
    ]
    for isa in ext.isas():
        mark = "*" if isa["name"] == ext.isa() else " "
        state = "supported" if isa["supported"] else f"not supported: {isa['why']}"
        lines.append(_wrapped(f"{mark} {isa['name']:<12} {state}"))
    lines += ["", f"{'methods':<20} {'weights':<12} {'mode':<10} error limit forward / backward"]
    for method in METHODS.values():
        limits = f"{_percent(method.forward_limit)} / {_percent(method.backward_limit)}"
        lines.append(f"  {method.name:<18} {method.format:<12} {method.mode:<10} {limits}")
    return "\n".join(lines)


def main() -> int:
    """Prints the report; 1 with one line of explanation when the extension cannot be loaded."""
    argparse.ArgumentParser(prog="python -m kt_kernel", description=__doc__).parse_args()
    try:
        from kt_kernel._native import ext
    except ImportError as error:
        print(f"kt_kernel {kt_kernel.__version__}: {error}", file=sys.stderr)
        return 1
    print(report(ext))
    return 0


if __name__ == "__main__":
    sys.exit(main())
