"""The integer products on every instruction set that runs here, against plain numpy: exactly where
nothing is rounded, else within float32's error of a model of the whole computation."""

import numpy as np
import pytest
from integer_model import (
    EPS,
    FORMATS,
    as_they_lie,
    backward_codes,
    expected_product,
    granules_of,
    spread,
)
from test_kernels import SIZES, bf16_bits, from_bits

from kt_kernel._native import ext

ROWS = [*range(1, 71), 255, 256]
# Rows: VNNI takes six and fewer straight from the blocks, AMX does not round more than 8 to 20.
FEW_AND_MANY = [1, 4, 6, 7, 13, 29]

axes = pytest.mark.parametrize("axis", ["k", "n"], ids=lambda axis: f"along_{axis}")
formats = pytest.mark.parametrize("form", FORMATS, ids=str)
# Scales by group are not exact along n: test_weights_read_by_one_row_each.
exact = pytest.mark.parametrize(
    ("axis", "form"),
    [(axis, form) for axis in "kn" for form in FORMATS if axis == "k" or not form.group],
    ids=str,
)


def exact_weights(rng, form, n, k):
    """Codes and scales that rounding must find again: the lowest code is in every group, and scales
    are powers of two of either sign."""
    group = form.group or k
    codes = rng.integers(form.low, form.high + 1, (n, k))
    lowest = rng.integers(0, group, (n, k // group)) + group * np.arange(k // group)
    np.put_along_axis(codes, lowest, form.low, 1)
    scales = np.exp2(rng.integers(-1, 2, lowest.shape)) * rng.choice([-1, 1], lowest.shape)
    return codes, scales


def exact_codes(rng, m, columns, granule):
    """Activation codes with 127 or -127 in every granule, times 1 or 2."""
    codes = rng.integers(-126, 127, (m, columns))
    for first in range(0, columns, granule):
        place = rng.integers(first, min(columns, first + granule), m)
        codes[np.arange(m), place] = 127 * rng.choice([-1, 1], m)
        codes[:, first : first + granule] <<= rng.integers(0, 2, (m, 1))
    return codes


def exact_operands(rng, form, axis, m, n, k):
    """Activations and weights, and their product, in which no step rounds."""
    codes, scales = exact_weights(rng, form, n, k)
    weights = codes * spread(scales, k)
    columns = k if axis == "k" else n
    a = exact_codes(rng, m, columns, form.granule(axis)).astype(np.float64)
    if axis == "n":
        a /= scales[:, 0]
    product = a @ (weights.T if axis == "k" else weights)
    return bf16_bits(a.astype(np.float32)), weights.astype(np.float32), product


def activations(rng, m, columns, granule, kind="normal"):
    """bfloat16 as float32. None is half the largest of its granule: that would be a tie between 63
    and 64, which float32 may break either way."""
    a = rng.standard_normal((m, columns))
    if kind == "heavy":
        a = rng.standard_t(2, (m, columns))
    elif kind == "outlier":
        a[np.arange(m), rng.integers(0, columns, m)] *= 1e4
    elif kind == "mixed":
        a *= np.exp2(rng.integers(-40, 40, (m, columns)))
    a = from_bits(bf16_bits(a.astype(np.float32)))
    pieces = granules_of(a, granule)
    most = abs(pieces).max(axis=2, keepdims=True)
    return np.where(2 * abs(pieces) == most, 0, pieces).reshape(m, -1)[:, :columns]


def weights_of(rng, n, k):
    """Normal, with magnitudes that differ by row and by column."""
    scale = np.exp2(rng.integers(-3, 4, (n, 1))) * np.exp(0.5 * rng.standard_normal((1, k)))
    return (rng.standard_normal((n, k)) * scale).astype(np.float32)


def assert_as_expected(isa, form, axis, a, weights, told=""):
    expected, allowed = expected_product(form, isa, axis, a, *form.codes(isa, weights))
    result = form.product(isa, axis, bf16_bits(a), weights)
    assert np.isfinite(result).all()
    worst = (abs(result - expected) - allowed).max()
    assert worst <= 0, f"{told} off by {worst} more than float32 may be"


@formats
@pytest.mark.parametrize("k", SIZES, ids=lambda k: f"k{k}")
def test_codes_that_fit_are_kept(isa, form, k):
    rng = np.random.default_rng(k)
    for columns in form.columns([k]):
        for n in SIZES:
            codes, scales = exact_weights(rng, form, n, columns)
            weights = (codes * spread(scales, columns)).astype(np.float32)
            found, found_scales = form.codes(isa, weights)
            np.testing.assert_array_equal(form.roundtrip(isa, weights), weights)
            # With codes that reach as far to either side, so do the scales.
            sign = np.sign(scales * found_scales) if form.low == -form.high else np.ones(1)
            np.testing.assert_array_equal(found_scales * sign, scales)
            np.testing.assert_array_equal(
                found * spread(np.broadcast_to(sign, scales.shape), columns), codes
            )


@exact
@pytest.mark.parametrize("n", SIZES, ids=lambda n: f"n{n}")
def test_product_is_exact_where_nothing_is_rounded(isa, axis, form, n):
    rng = np.random.default_rng(n)
    for k in form.columns(SIZES):
        for m in FEW_AND_MANY:
            bits, weights, expected = exact_operands(rng, form, axis, m, n, k)
            result = form.product(isa, axis, bits, weights)
            np.testing.assert_array_equal(result, expected, f"m {m}, k {k}")


@exact
def test_exact_product_of_any_number_of_rows(isa, axis, form):
    rng = np.random.default_rng(0)
    n, k = (35, 384) if axis == "k" else (150, 35)
    for m in ROWS:
        bits, weights, expected = exact_operands(rng, form, axis, m, n, k)
        np.testing.assert_array_equal(form.product(isa, axis, bits, weights), expected, f"m {m}")


@exact
@pytest.mark.parametrize(
    ("first", "last"),
    [(0, 1), (0, 16), (16, 17), (16, 33), (32, 250), (48, 304), (256, 300), (288, 305), (304, 305)],
    ids=lambda column: str(column),
)
def test_exact_product_of_some_columns(isa, axis, form, first, last):
    rng = np.random.default_rng(first)
    n, k = (305, 128) if axis == "k" else (70, 305)
    for m in (3, 20):
        bits, weights, expected = exact_operands(rng, form, axis, m, n, k)
        result = form.piece(isa, axis, bits, weights, first, last)
        np.testing.assert_array_equal(result, expected[:, first:last], f"m {m}")


@axes
@formats
def test_some_columns_have_the_bits_of_the_whole(isa, axis, form):
    """Also where 32 columns, which a tile takes at once, are of two groups."""
    rng = np.random.default_rng(0)
    n, k = (305, 128) if axis == "k" else (70, 384)
    weights = weights_of(rng, n, k)
    for m in (3, 13, 29):
        bits = bf16_bits(activations(rng, m, k if axis == "k" else n, form.granule(axis)))
        whole = form.product(isa, axis, bits, weights)
        for first, last in [(16, 250), (48, 304), (112, 145), (288, 305)]:
            piece = form.piece(isa, axis, bits, weights, first, last)
            np.testing.assert_array_equal(piece, whole[:, first:last], f"m {m}, from {first}")


@exact
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_are_exact(isa, axis, form, sign):
    """All codes are as large as they may be, but for one in each group, which makes the scale."""
    n, k = 130, 384
    codes = np.full((n, k), form.high)
    codes[:, form.group - 1 :: form.group or k] = form.low
    for m in FEW_AND_MANY:
        a = np.full((m, k if axis == "k" else n), 127 * sign, np.float32)
        weights = codes.astype(np.float32)
        # INT8 may hold 127 as 126 times a scale, which meets bf16 where activations carry it.
        if axis == "n" and form.high > 7 and not form.rounds(isa, axis, m):
            assert_as_expected(isa, form, axis, a, weights, f"m {m}")
            continue
        product = a @ (codes.T if axis == "k" else codes)
        result = form.product(isa, axis, bf16_bits(a), weights)
        np.testing.assert_array_equal(result, product, f"m {m}")


@formats
@pytest.mark.parametrize("n", [1, 17, 250], ids=lambda n: f"n{n}")
def test_weights_read_by_one_row_each(isa, form, n):
    """A row of A that is zero but for one column reads a row or column of the weights."""
    rng = np.random.default_rng(n)
    for columns in form.columns([1, 17, 250]):
        weights = weights_of(rng, n, columns)
        held = form.roundtrip(isa, weights)
        codes = form.codes(isa, weights)
        ones = np.eye(columns)[:250]
        along_k = form.product(isa, "k", bf16_bits(ones), weights)
        rounded = form.rounds(isa, "k", len(ones))
        expected = held if rounded else as_they_lie(form, "k", ones, *codes)[1]
        np.testing.assert_allclose(along_k, expected.T[:250], rtol=4 * EPS)
        along_n = form.product(isa, "n", bf16_bits(np.eye(n)), weights)
        if not form.rounds(isa, "n", n):
            a, expected = as_they_lie(form, "n", np.eye(n), *codes)
            np.testing.assert_array_equal(along_n, a @ expected)
            continue
        if not form.group:
            np.testing.assert_allclose(along_n, held, rtol=4 * EPS)
            continue
        # Codes of 8 bits in steps of the row's own: half a step off, and eight times what a ratio
        # of scales with 11 bits behind the point leaves.
        codes, scales = codes
        step = abs(scales).max(axis=1, keepdims=True) * 8 / 127
        assert (abs(along_n - held) <= step * (0.5 + 8 * 2.0**-12 + 128 * 2 * EPS)).all()
        table, step = backward_codes(codes, scales)
        np.testing.assert_allclose(along_n, table * step[:, None], rtol=4 * EPS)


@axes
@formats
@pytest.mark.parametrize("kind", ["normal", "heavy", "outlier", "mixed"])
def test_product_as_the_model_has_it(isa, axis, form, kind):
    rng = np.random.default_rng(len(kind))
    for n, columns in [(33, 250), (300, 17), (65, 330)]:
        (k,) = form.columns([columns])
        weights = weights_of(rng, n, k)
        for m in (1, 6, 37):
            a = activations(rng, m, k if axis == "k" else n, form.granule(axis), kind)
            assert_as_expected(isa, form, axis, a, weights, f"{m} rows, {n} x {k}:")


@axes
@formats
def test_long_sums(isa, axis, form):
    """More than one block of A holds: along k with few rows and with many, along n always."""
    rng = np.random.default_rng(0)
    along_k = (5, 4512), (16, 4512), (40, 4512), (256, 1200)
    for m, length in along_k if axis == "k" else [(256, 1200)]:
        n, k = (17, length) if axis == "k" else (length, 17)
        weights = weights_of(rng, n, form.columns([k])[0])
        a = activations(rng, m, weights.shape["nk".index(axis)], form.granule(axis))
        assert_as_expected(isa, form, axis, a, weights, f"{m} rows:")


@axes
@formats
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
def test_what_is_not_finite_spoils_its_row_and_no_other(isa, axis, form, bad):
    rng = np.random.default_rng(0)
    n, k = (40, form.columns([200])[0])
    weights = weights_of(rng, n, k)
    weights[3] = 0
    length = k if axis == "k" else n
    for m in (5, 9, 25):
        a = activations(rng, m, length, form.granule(axis))
        clean = form.product(isa, axis, bf16_bits(a), weights)
        for place in (0, 3, length // 2, length - 1):
            spoilt = a.copy()
            spoilt[m - 2, place] = bad
            result = form.product(isa, axis, bf16_bits(spoilt), weights)
            # Rounded, the row has no scale. As it lies, infinity keeps its sign or meets a zero.
            rounded = form.rounds(isa, axis, m)
            spoiled = np.isnan if rounded else lambda values: ~np.isfinite(values)
            assert spoiled(result[m - 2]).all()
            others = np.arange(m) != m - 2
            np.testing.assert_array_equal(result[others], clean[others])


@axes
@formats
def test_rows_of_zeros_and_of_denormals(isa, axis, form):
    rng = np.random.default_rng(0)
    n, k = (40, form.columns([200])[0])
    weights = weights_of(rng, n, k)
    for m in (4, 9, 25):
        a = activations(rng, m, k if axis == "k" else n, form.granule(axis))
        clean = form.product(isa, axis, bf16_bits(a), weights)
        a[1] = 0
        a[2] = np.float32(1e-40) * rng.standard_normal(a.shape[1]).astype(np.float32)
        result = form.product(isa, axis, bf16_bits(a), weights)
        assert not result[1:3].any()
        np.testing.assert_array_equal(result[[0, *range(3, m)]], clean[[0, *range(3, m)]])


@axes
@formats
@pytest.mark.parametrize("size", [1e-30, 1e30, 1e37, 1e38], ids=str)
def test_rows_of_any_magnitude(isa, axis, form, size):
    rng = np.random.default_rng(0)
    n, k = (40, form.columns([200])[0])
    weights = weights_of(rng, n, k) * np.float32(1e-3)
    for m in (4, 9, 25):
        a = activations(rng, m, k if axis == "k" else n, form.granule(axis))
        a[1:] *= np.float32(size) / abs(a).max()
        a = from_bits(bf16_bits(a))
        expected, allowed = expected_product(form, isa, axis, a, *form.codes(isa, weights))
        result = form.product(isa, axis, bf16_bits(a), weights)
        # Sums of rounded rows are scaled by the activations first, too much perhaps beyond 1e33.
        rounded = form.rounds(isa, axis, m)
        good = np.isfinite(result) if rounded and size > 1e33 else np.ones(result.shape, bool)
        assert good[0].all()
        assert (abs(result - expected)[good] <= allowed[good]).all()


@axes
@formats
@pytest.mark.parametrize("size", [1e-33, 1e33], ids=str)
def test_weights_of_any_magnitude(isa, axis, form, size):
    """The large ones beside rows whose weights are 1e-12 times as large."""
    rng = np.random.default_rng(0)
    n, k = (40, form.columns([200])[0])
    sizes = size * np.where(np.arange(n) % 3, 1, 1e-12 if size > 1 else 1)[:, None]
    weights = (weights_of(rng, n, k) * sizes).astype(np.float32)
    for m in (4, 13, 29):
        a = activations(rng, m, k if axis == "k" else n, form.granule(axis))
        assert_as_expected(isa, form, axis, a, weights, f"m {m}")


@pytest.mark.parametrize("axis", ["k", "n"])
@formats
def test_instruction_sets_agree(axis, form):
    rng = np.random.default_rng(0)
    sets = [each["name"] for each in ext.isas() if each["supported"]]
    for m in (5, 37):
        _, weights, _ = exact_operands(rng, form, axis, m, 250, form.columns([300])[0])
        a = activations(rng, m, weights.shape["nk".index(axis)], form.granule(axis))
        # The others are in test_product_as_the_model_has_it.
        alike = [name for name in sets if form.rounds(name, axis, m)]
        results = [form.product(name, axis, bf16_bits(a), weights) for name in alike]
        _, allowed = expected_product(form, alike[0], axis, a, *form.codes(alike[0], weights))
        for name, result in zip(alike, results, strict=True):
            assert (abs(result - results[0]) <= allowed).all(), f"{alike[0]} and {name}"
