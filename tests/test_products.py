"""The products, on every instruction set that runs here, against numpy in float64."""

import numpy as np
import pytest
from bf16 import bf16_bits, from_bits, integers

from kt_kernel._native import ext

MOST_COLUMNS = 256  # that one call computes
SIZES = [1, 15, 16, 17, 33, 250, 300]
EPS = 2.0**-23  # of float32

axes = pytest.mark.parametrize("axis", ["k", "n"], ids=lambda axis: f"along_{axis}")
layouts = pytest.mark.parametrize("layout", ["bf16", ""], ids=lambda x: x or "rows")


def product(isa, layout, axis, a, weights):
    """The whole product, and that each piece of it ran where it was told to."""
    outputs = weights.shape[0 if axis == "k" else 1]
    pieces = []
    for first in range(0, outputs, MOST_COLUMNS):
        last = min(outputs, first + MOST_COLUMNS)
        piece, ran = ext._ops.product(isa, layout, axis, a, weights, first, last)
        assert ran == isa
        pieces.append(piece)
    return np.concatenate(pieces, axis=1)


def operands(rng, axis, m, n, k, draw):
    return draw(rng, m, k if axis == "k" else n), draw(rng, n, k)


def exact_product(axis, a, weights):
    a, weights = a.astype(np.float64), weights.astype(np.float64)
    return a @ (weights.T if axis == "k" else weights)


@axes
@layouts
@pytest.mark.parametrize("n", SIZES, ids=lambda n: f"n{n}")
@pytest.mark.parametrize("k", SIZES, ids=lambda k: f"k{k}")
def test_product_is_exact_for_integers(isa, axis, layout, n, k):
    rng = np.random.default_rng([n, k])
    for m in (1, 4, 13):
        a, weights = operands(rng, axis, m, n, k, integers)
        result = product(isa, layout, axis, bf16_bits(a), weights)
        np.testing.assert_array_equal(result, exact_product(axis, a, weights))


@axes
@layouts
def test_product_of_any_number_of_rows(isa, axis, layout):
    rng = np.random.default_rng(0)
    n, k = (35, 150) if axis == "k" else (150, 35)  # few rows take another way along 128 and more
    for m in [*range(1, 71), 255, 256]:
        a, weights = operands(rng, axis, m, n, k, integers)
        result = product(isa, layout, axis, bf16_bits(a), weights)
        np.testing.assert_array_equal(result, exact_product(axis, a, weights), f"{m} rows")


@axes
@layouts
@pytest.mark.parametrize(("m", "length"), [(16, 4500), (100, 2100), (256, 2100)])
def test_product_of_a_sum_so_long_that_a_takes_turns(isa, axis, layout, m, length):
    rng = np.random.default_rng(m)
    n, k = (33, length) if axis == "k" else (length, 33)  # more of A than its buffer holds
    a, weights = operands(rng, axis, m, n, k, integers)
    result = product(isa, layout, axis, bf16_bits(a), weights)
    np.testing.assert_array_equal(result, exact_product(axis, a, weights))


@axes
@layouts
@pytest.mark.parametrize(
    ("first", "last"),
    [(0, 1), (0, 16), (16, 17), (16, 33), (32, 250), (48, 304), (256, 300), (288, 305), (304, 305)],
    ids=lambda column: str(column),
)
def test_product_of_some_columns(isa, axis, layout, first, last):
    rng = np.random.default_rng(first)
    n, k = (305, 70) if axis == "k" else (70, 305)
    a, weights = operands(rng, axis, 7, n, k, integers)
    result, ran = ext._ops.product(isa, layout, axis, bf16_bits(a), weights, first, last)
    assert ran == isa
    np.testing.assert_array_equal(result, exact_product(axis, a, weights)[:, first:last])


@axes
@layouts
@pytest.mark.parametrize(("n", "k"), [(33, 250), (300, 17), (64, 1100), (1100, 64)])
@pytest.mark.parametrize("m", [5, 37])
def test_product_sums_in_float32_over_weights_rounded_once(isa, axis, layout, n, k, m):
    rng = np.random.default_rng(n)
    normal = lambda rng, *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    a, weights = operands(rng, axis, m, n, k, normal)
    bits, rounded = bf16_bits(a), from_bits(bf16_bits(weights))
    result = product(isa, layout, axis, bits, weights)
    # The products are exact, and each of the sum's steps errs by half an EPS of the sum of
    # magnitudes at most; a pair summed on its own before it is added makes that one EPS.
    steps = k if axis == "k" else n
    allowed = steps * EPS * exact_product(axis, abs(from_bits(bits)), abs(rounded))
    assert (abs(result - exact_product(axis, from_bits(bits), rounded)) <= allowed).all()


odd_sizes = pytest.mark.parametrize(("n", "k"), [(17, 33), (33, 17), (250, 150), (150, 250)])


@axes
@layouts
@odd_sizes
def test_a_nan_reaches_its_own_results_only(isa, axis, layout, n, k):
    rng = np.random.default_rng(n)
    for m in (2, 5, 13):
        a, weights = operands(rng, axis, m, n, k, integers)
        a[1] = np.nan
        (weights if axis == "k" else weights.T)[3] = np.nan
        result = product(isa, layout, axis, bf16_bits(a), weights)
        np.testing.assert_array_equal(result, exact_product(axis, a, weights))


@axes
@layouts
@odd_sizes
def test_nothing_of_a_product_is_left_for_the_next(isa, axis, layout, n, k):
    rng = np.random.default_rng(n)
    nan = np.full((300, 300), np.nan, np.float32)
    for m in (1, 4, 13):
        for before in ("bf16", ""):
            product(isa, before, axis, bf16_bits(nan[:m]), nan)
        a, weights = operands(rng, axis, m, n, k, integers)
        result = product(isa, layout, axis, bf16_bits(a), weights)
        np.testing.assert_array_equal(result, exact_product(axis, a, weights))
