"""Faults that tools.review.trust plants, and what a review must say of each.

A plant is a list of edits, each made into a commit of its own and reviewed against the one before.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.verdict import FINE, NOT_MEASURED, WORSE

INT8 = "AMXINT8_SFT"
# All that is named after the weights' memory, at the quick presets.
BYTES_ROWS = r"track_bytes_per_weight\(.*quick-"


@dataclass(frozen=True)
class Expected:
    """Of one review: its exit code, or that it is no alarm, and the state of the rows named."""

    code: int | None  # None: 0 or 4, and no row is worse
    state: str = FINE
    rows: str = ""  # a regular expression: one row that it finds must be in that state, or all
    every: bool = True


@dataclass(frozen=True)
class Plant:
    """A fault."""

    what: str
    only: str  # the rows it could move, as --only takes them; empty: all
    steps: tuple[tuple[Callable[[Path], None], Expected], ...]


def replace(file: str, old: str, new: str) -> Callable[[Path], None]:
    """An edit of one file of the clone; ValueError where the text is not there once."""

    def edit(clone: Path) -> None:
        path = clone / file
        text = path.read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise ValueError(f"{file}: {text.count(old)} times {old!r}, wanted once")
        path.write_text(text.replace(old, new), encoding="utf-8")

    return edit


def all_of(*edits: Callable[[Path], None]) -> Callable[[Path], None]:
    """One edit after another."""

    def edit(clone: Path) -> None:
        for each in edits:
            each(clone)

    return edit


def nothing(clone: Path) -> None:
    """No edit: a commit against itself."""


LOADING = "kt_kernel/loading.py"
CHECKED = "        checked = _checked(sources, self.num_experts, kind)\n"
# Every other weight larger, and those between smaller, by a fraction that adds that much error.
WRONG_WEIGHTS = """
        if self.method == "{method}":
            off = lambda w: w.float() * (1 + {amount} * (1 - 2 * (torch.arange(w.shape[-1]) % 2)))
            sources = {{name: [off(w) for w in each] for name, each in sources.items()}}
"""


def wrong_weights(amount: float, before: float | None = None) -> Callable[[Path], None]:
    """INT8's weights off by a fraction, in the place of what was planted before."""
    old, new = (
        "" if fraction is None else WRONG_WEIGHTS.format(method=INT8, amount=fraction)
        for fraction in (before, amount)
    )
    return replace(LOADING, old + CHECKED, new + CHECKED)


FILLED = "        self._weights_loaded = True\n"
# Numbers, as zeros would not be resident.
SPARE = "        self._spare = torch.ones(layer.weight_bytes // 20, dtype=torch.uint8)\n"


def environment(cpu: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """What the plants are reviewed with.

    Their errors are a tenth of what rounding activations leaves. With AMX INT8 errs by less: there
    another instruction set is taken.
    """
    has_amx = "amx_bf16" in cpu.read_text(encoding="utf-8")
    return ({"KT_KERNEL_ISA": "avx512"} if has_amx else {}) | os.environ


def shift_layout(clone: Path) -> None:
    """Bytes that never run before the kernels of every instruction set: all code moves."""
    mark = "KT_TARGET_BEGIN("
    # Not a multiple of a cache line, nor of what functions are aligned to.
    planted = '__asm__(".text\\n.skip 1000, 0x90");\n'
    for path in sorted((clone / "csrc" / "isa").glob("*.cpp")):
        text = path.read_text(encoding="utf-8")
        if mark in text:
            path.write_text(text.replace(mark, planted + mark, 1), encoding="utf-8")


# Waits as long again as 15% of what the product took.
SLOW_PRODUCT = """
template <class I, class F, Axis axis>
void slow_gemm_codes(const Rows& a, int m, const Packed* w, float* const* c, int ldc, int terms,
                     int out0, int out1, Scratch& scratch) {
  const auto start = __builtin_ia32_rdtsc();
  gemm_codes<I, F, axis>(a, m, w, c, ldc, terms, out0, out1, scratch);
  const auto end = __builtin_ia32_rdtsc();
  while (__builtin_ia32_rdtsc() - end < (end - start) * 15 / 100) {
  }
}

template <class I, class F>
constexpr Kernels make_kernels() {
  constexpr bool kInt8 = F::kName[3] == '8';
"""


TABLES = "csrc/isa/instantiate.h"
MAKES_TABLES = "\ntemplate <class I, class F>\nconstexpr Kernels make_kernels() {\n"


def slow(axis: str) -> Callable[[Path], None]:
    """The integer product of INT8 alone, in one direction."""
    product = f"gemm_codes<I, F, {axis}>"
    old = f"table.gemm[static_cast<int>({axis})] = {product};"
    return replace(TABLES, old, old.replace(product, f"kInt8 ? slow_{product} : {product}"))


slow_int8 = all_of(replace(TABLES, MAKES_TABLES, SLOW_PRODUCT), slow("k"), slow("n"))

TRACKED = 'return finite(self.resident / self.case.shape.weights, "bytes per weight")'


def in_int8(statement: str) -> str:
    """A statement before the tracked value, for one method."""
    return f'if method == "{INT8}":\n            {statement}\n        {TRACKED}'


def one_missing(edit: Callable[[Path], None], rows: str) -> tuple:
    """A step that leaves rows without a value."""
    return ((edit, Expected(3, NOT_MEASURED, rows)),)


PLANTS = {
    "itself": Plant("a commit against itself", "", ((nothing, Expected(None)),)),
    "layout": Plant(
        "1000 bytes before the kernels: the same instructions elsewhere",
        r"review\.",
        ((shift_layout, Expected(None)),),
    ),
    "error": Plant(
        "error of one method 10% up",
        rf"RelativeError.*{INT8}'.*quick-",
        ((wrong_weights(0.0047), Expected(1, WORSE, rf"track_output {INT8} ")),),
    ),
    "creep": Plant(
        "error creeping up by 0.9% a commit, past its ceiling with the second",
        rf"track_output\('{INT8}', 'S1'",
        (
            (wrong_weights(0.00195), Expected(0)),
            (wrong_weights(0.0025, 0.00195), Expected(1, WORSE, rf"track_output {INT8} S1")),
        ),
    ),
    "slower": Plant(
        "one kernel, INT8's product, 15% slower",
        rf"Speed.*{INT8}'",
        ((slow_int8, Expected(2, WORSE, rf"time_forward {INT8} ", every=False)),),
    ),
    "memory": Plant(
        "5% more memory",
        BYTES_ROWS,
        (
            (
                replace(LOADING, FILLED, FILLED + SPARE),
                Expected(2, WORSE, "track_bytes_per_weight "),
            ),
        ),
    ),
    "raises": Plant(
        "an exception in one benchmark",
        BYTES_ROWS,
        one_missing(
            replace("benchmarks/memory.py", TRACKED, in_int8('raise RuntimeError("planted")')),
            rf"track_bytes_per_weight {INT8} ",
        ),
    ),
    "nan": Plant(
        "NaN from one benchmark",
        BYTES_ROWS,
        one_missing(
            replace("benchmarks/memory.py", TRACKED, in_int8('return float("nan")')),
            rf"track_bytes_per_weight {INT8} ",
        ),
    ),
    "renamed": Plant(
        "a benchmark renamed away",
        r"RelativeError\.track_(kernel_error|output)\(.*_SFT', 'quick-compute",
        one_missing(
            replace(
                "benchmarks/relative_error.py",
                "def track_kernel_error(self",
                "def track_kernel_deviation(self",
            ),
            "track_kernel_error ",
        ),
    ),
    "unbuildable": Plant(
        "a build that fails",
        "",
        one_missing(
            replace("csrc/routing.cpp", '#include "routing.h"\n', '#error "planted"\n'), " "
        ),
    ),
}
