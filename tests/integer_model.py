"""The integer products in plain numpy, written from their description in docs/rounding.md and the
formats' headers: what is rounded, to what, and how far float32 may then be off."""

from dataclasses import dataclass

import numpy as np
from bf16 import bf16_bits, from_bits
from numpy.typing import NDArray

from kt_kernel._native import ext

Array = NDArray[np.generic]
EPS = 2.0**-23  # of float32
MOST_COLUMNS = 256  # of a product that one call computes
GRANULE = 64  # columns of activations that share a scale


@dataclass(frozen=True)
class Format:
    """A format of integer codes; group 0: one scale for a row."""

    name: str
    low: int
    high: int
    group: int = 0

    def __str__(self) -> str:
        return self.name + (f"_g{self.group}" if self.group else "")

    @property
    def arguments(self) -> tuple[int, ...]:
        """What the extension's functions take after their other arguments."""
        return (self.group,) if self.group else ()

    def columns(self, sizes):
        """The sizes that may be a weight's number of columns: whole groups of them."""
        if not self.group:
            return sizes
        return sorted({-(-size // self.group) * self.group for size in sizes})

    def granule(self, axis: str) -> int:
        return min(GRANULE, self.group) if self.group and axis == "k" else GRANULE

    def rounded_rows(self, isa: str, axis: str) -> int:
        """Up to how many rows of activations are rounded there; more are multiplied as they lie."""
        return ext._ops.rounded_rows(isa, self.name, axis, *self.arguments)

    def rounds(self, isa: str, axis: str, m: int) -> bool:
        return m <= self.rounded_rows(isa, axis)

    def keeps_codes(self, axis: str, m: int) -> bool:
        """Whether activations that are not rounded meet the codes themselves, and scales the sums
        or, along n, the activations: else the weights are rounded to bf16."""
        return not self.group or (axis == "k" and self.group >= 64 and m <= 64)

    def codes(self, isa: str, weights: Array) -> tuple[Array, Array]:
        """Codes [n, k], and scales [n, groups]."""
        codes, scales = ext._ops.codes(isa, self.name, weights, *self.arguments)
        return codes, scales.reshape(len(codes), -1)

    def roundtrip(self, isa: str, weights: Array) -> Array:
        return ext._ops.roundtrip(isa, self.name, weights, *self.arguments)

    def product(self, isa: str, axis: str, bits: Array, weights: Array) -> Array:
        """The whole product, and that each piece of it ran where it was told to."""
        outputs = weights.shape[0 if axis == "k" else 1]
        pieces = []
        for first in range(0, outputs, MOST_COLUMNS):
            piece = self.piece(isa, axis, bits, weights, first, min(outputs, first + MOST_COLUMNS))
            pieces.append(piece)
        return np.concatenate(pieces, axis=1)

    def piece(self, isa: str, axis: str, bits: Array, weights: Array, first: int, last: int):
        arguments = (self.name, axis, bits, weights, first, last, *self.arguments)
        piece, ran = ext._ops.product(isa, *arguments)
        assert ran == isa
        return piece


FORMATS = [
    Format("int8", -127, 127),
    Format("int4", -8, 7),
    Format("int4_kgroup", -8, 7, 32),
    Format("int4_kgroup", -8, 7, 64),
    Format("int4_kgroup", -8, 7, 128),
]


def spread(scales: Array, columns: int) -> Array:
    """A scale for each column."""
    return np.repeat(scales, columns // scales.shape[1], axis=1)


def granules_of(values: Array, granule: int) -> Array:
    """[m, granules, granule], zeros where the last one is cut short."""
    m, columns = values.shape
    padded = np.zeros((m, -(-columns // granule) * granule), values.dtype)
    padded[:, :columns] = values
    return padded.reshape(m, -1, granule)


@dataclass
class Rounded:
    """Activations as the product takes them: value = step * code; `unsure` where float32 may
    round a tie to either side."""

    codes: Array
    steps: Array
    unsure: Array


def round_activations(values: Array, granule: int) -> Rounded:
    """float32 [m, columns] to codes of 8 bits, ties to even, the largest of a granule to 127."""
    pieces = granules_of(values.astype(np.float32), granule)
    most = abs(pieces).max(axis=2, keepdims=True)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(most > 4e-37, np.float32(127) / most, np.float32(0))
    exact = pieces.astype(np.float64) * inverse
    codes = np.rint(exact)
    unsure = abs(abs(exact - codes) - 0.5) < 1e-4
    steps = np.where(most > 4e-37, most / 127.0, 0.0) + 0 * exact
    flat = (part.reshape(len(values), -1)[:, : values.shape[1]] for part in (codes, steps, unsure))
    return Rounded(*flat)


def backward_codes(codes: Array, scales: Array) -> tuple[Array, Array]:
    """Codes [n, k] of four bits, scaled by group, as codes of eight bits in steps of one per row:
    the largest scale times 8 / 127. The ratio of scales carries 11 bits behind the point, and the
    product is rounded upwards from ties. Returns those codes and the steps."""
    step = abs(scales).max(axis=1, keepdims=True) * np.float32(8 / 127)
    with np.errstate(divide="ignore"):
        one_by = np.where(step > 0, np.float32(1) / step, np.float32(0))
    ratio = np.rint(scales * one_by * np.float32(2048)).astype(np.int64)
    products = 16 * codes.astype(np.int64) * spread(ratio, codes.shape[1])
    return ((products >> 14) + 1) >> 1, step[:, 0]


def in_bf16(values: Array) -> Array:
    return from_bits(bf16_bits(values.astype(np.float32)))


def as_they_lie(form: Format, axis: str, a: Array, codes: Array, scales: Array):
    """What is multiplied where activations are not rounded to codes: activations [m, columns] and
    weights [n, k], in float64 whose values are bf16's but for scales along k."""
    scale = spread(scales, codes.shape[1])
    if not form.keeps_codes(axis, len(a)):
        weights = in_bf16(codes.astype(np.float32) * scale)
    elif axis == "k":
        weights = codes * scale.astype(np.float64)
    else:
        a, weights = in_bf16(a * scales[:, 0]), codes
    return a.astype(np.float64), weights.astype(np.float64)


def expected_product(form: Format, isa: str, axis: str, a: Array, codes: Array, scales: Array):
    """(the product in float64, by how much float32 may miss it), from activations in float32 and
    the weights' codes and scales."""
    if not form.rounds(isa, axis, len(a)):
        values, held = as_they_lie(form, axis, a, codes, scales)
        held = held.T if axis == "k" else held
        # Each product is added with one rounding, even and odd columns apart, and what is smaller
        # than the normal numbers is zero: before its scale, or an activation times its scale.
        # Scaling and adding a group's sums are two more.
        roundings = a.shape[1] + 2
        smallest = 2.0**-126 * np.ones(held.shape[1])
        if form.keeps_codes(axis, len(a)):
            roundings += 2 * scales.shape[1]
            smallest = 2 * smallest + 2.0**-126 * (abs(held).max(axis=0) if axis == "n" else 0)
        return values @ held, roundings * (EPS / 2 * (abs(values) @ abs(held)) + smallest)
    granule = form.granule(axis)
    if axis == "k":
        rounded = round_activations(a, granule)
        weights = codes * spread(scales, codes.shape[1]).astype(np.float64)
        weights = weights.T
    elif form.group:
        weights, step = backward_codes(codes, scales)
        rounded = round_activations(a * step, granule)
    else:
        weights = codes
        rounded = round_activations(a * scales[:, 0], granule)
    values = rounded.codes * rounded.steps
    size = abs(weights).astype(np.float64)
    # Products within a granule are summed exactly. Each granule's sum is scaled and added, once
    # more for each panel, in float32; the scales themselves are rounded a few times.
    roundings = -(-a.shape[1] // granule) * 2 + 8
    allowed = roundings * EPS / 2 * (abs(values) @ size)
    allowed = allowed + (rounded.unsure * rounded.steps) @ size
    return values @ weights.astype(np.float64), allowed
