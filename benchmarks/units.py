"""The machine's compute roof: what its multiply units do with registers alone.

It is measured by benchmarks/units.cpp, not by the package: a roof made of a method's own tile would
rise when that tile becomes faster, and its commits would be marked as slower.
"""

import ctypes
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("units.cpp")


class Unit(NamedTuple):
    """A function of units.cpp: its sums, multiply-adds of one product, what the CPU must have."""

    name: str
    sums: int
    products: int
    flags: frozenset[str]  # as /proc/cpuinfo has them


def _unit(name: str, sums: int, products: int, *flags: str) -> Unit:
    return Unit(name, sums, products, frozenset(flags))


# Fastest first: the first one that the CPU has is its roof.
FLOAT32 = (
    _unit("float_zmm", 12, 16, "avx512f"),
    _unit("float_ymm", 12, 8, "avx2", "fma"),
    _unit("float_xmm", 12, 4),
)
UNITS = {
    "float32": FLOAT32,
    "bf16": (
        _unit("bf16_tiles", 4, 16 * 16 * 32, "amx_tile", "amx_bf16"),
        _unit("bf16_zmm", 12, 32, "avx512f", "avx512_bf16"),
        *FLOAT32,
    ),
    "int8": (
        _unit("bytes_tiles", 4, 16 * 16 * 64, "amx_tile", "amx_int8"),
        _unit("dot_zmm", 12, 64, "avx512f", "avx512_vnni"),
        _unit("bytes_zmm", 12, 64, "avx512f", "avx512bw"),
        _unit("bytes_ymm", 12, 32, "avx2"),
        _unit("words_xmm", 12, 8),
    ),
}


def cpu_flags() -> frozenset[str]:
    """What the CPU has and the kernel saves."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


@cache
def library() -> ctypes.CDLL:
    """The compiled source, for this process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "units.so"
        compiler = os.environ.get("CXX", "c++")
        command = [compiler, "-std=c++20", "-O2", "-shared", "-fPIC", SOURCE, "-o", path]
        subprocess.run(command, check=True)
        return ctypes.CDLL(path)


def rate(unit: Unit, threads: int, milliseconds: float) -> float:
    """Operations per second, 2 for a multiply-add, of all threads together; 0 where refused."""
    function = library()[unit.name]
    function.restype, function.argtypes = ctypes.c_double, (ctypes.c_double,)
    with ThreadPoolExecutor(threads) as pool:
        steps = pool.map(function, [milliseconds] * threads)
        return 2 * unit.sums * unit.products * sum(steps)


def peak(kind: str, threads: int, milliseconds: float = 50) -> float:
    """The roof of products in "float32", "bf16" or "int8", in operations per second."""
    flags = cpu_flags()
    for unit in UNITS[kind]:
        if unit.flags <= flags and (operations := rate(unit, threads, milliseconds)):
            return operations
    raise AssertionError("unreachable: the last unit needs nothing")
