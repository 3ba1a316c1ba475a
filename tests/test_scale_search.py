"""The scales of least squared error that the integer formats find, against a search of thousands
of scales in float64, and against the scale that the largest weight alone would give."""

import numpy as np
import pytest
from integer_model import FORMATS, spread

# Of the weights' squared norm: what float32's sums, and a scale held in float16 (half a step of
# 2^-11, squared), may add.
ROUNDING = 1e-9
FLOAT16 = 2.0**-22

formats = pytest.mark.parametrize("form", FORMATS, ids=str)


def outlier_columns(rng, n, k):
    weights = rng.standard_normal((n, k))
    weights[:, rng.integers(0, k, max(1, k // 64))] *= 20
    return weights


def one_outlier(rng, n, k):
    weights = rng.standard_normal((n, k))
    weights[np.arange(n), rng.integers(0, k, n)] *= np.exp2(rng.integers(2, 10, n))
    return weights


def single_elements(rng, n, k):
    weights = np.zeros((n, k))
    weights[np.arange(n), rng.integers(0, k, n)] = rng.standard_normal(n)
    return weights


def alternating(rng, n, k):
    return 0.7 * (-1.0) ** np.arange(n * k).reshape(n, k)


RANDOM = {
    "normal": lambda rng, n, k: rng.standard_normal((n, k)),
    "student_t4": lambda rng, n, k: rng.standard_t(4, (n, k)),
    "one_outlier": one_outlier,
    "outlier_columns": outlier_columns,
    "large": lambda rng, n, k: 1e37 * rng.standard_normal((n, k)),
    "small": lambda rng, n, k: 1e-30 * rng.standard_normal((n, k)),
}
# Rows that codes hold exactly.
EXACT = {
    "zeros": lambda rng, n, k: np.zeros((n, k)),
    "constant": lambda rng, n, k: np.full((n, k), 0.3),
    "alternating": alternating,
    "single": single_elements,
}
# How far above the least the squared error may be.
FACTOR = {-127: 1.02, -8: 1.02}


def rounded(rows, scales, low, high):
    """Squared errors [g, s] of rows [g, columns] at scales [g, s], none of them 0; the codes."""
    codes = np.clip(np.rint(rows[:, None] / scales[..., None]), low, high)
    return np.square(rows[:, None] - scales[..., None] * codes).sum(-1), codes


def least_error(rows, low, high):
    """The squared error of each row at the best of all scales of either sign: a fine grid, and the
    best of its points improved until the codes stay."""
    most = abs(rows).max(1, keepdims=True)
    grid = np.linspace(0.1, 1.4, 1000) / -low
    scales = most * np.concatenate([grid, -grid])
    errors, _ = rounded(rows, scales, low, high)
    scales = np.take_along_axis(scales, np.argsort(errors, axis=1)[:, :8], 1)
    for _ in range(20):
        _, codes = rounded(rows, scales, low, high)
        scales = (rows[:, None] * codes).sum(-1) / np.square(codes).sum(-1)
    return rounded(rows, scales, low, high)[0].min(1)


def by_group(form, weights):
    """Rows that share a scale."""
    return weights.reshape(-1, form.group or weights.shape[1]).astype(np.float64)


def errors_of(form, isa, weights):
    """Squared, for each scale; and what rounding may add to those."""
    codes, scales = form.codes(isa, weights)
    assert codes.min() >= form.low
    assert codes.max() <= form.high
    rows = by_group(form, weights)
    held = by_group(form, codes * spread(scales.astype(np.float64), weights.shape[1]))
    rounding = np.square(rows).sum(1) * (ROUNDING + (FLOAT16 if form.group else 0))
    return np.square(rows - held).sum(1), rounding


@formats
@pytest.mark.parametrize("kind", RANDOM)
def test_error_is_close_to_the_least(isa, form, kind):
    shape = (8, 256) if form.group else (3, 2048)  # where tails are long, the best scale is far
    weights = RANDOM[kind](np.random.default_rng(0), *shape).astype(np.float32)
    errors, rounding = errors_of(form, isa, weights)
    least = least_error(by_group(form, weights), form.low, form.high)
    # Each counts as much as any other, whatever the weights' magnitude.
    ratio = (errors - rounding) / least
    told = f"{ratio.mean():.4f}, at most {ratio.max():.4f}"
    assert ratio.mean() <= FACTOR[form.low], told
    assert (errors >= least * (1 - 1e-6) - rounding).all(), "least_error did not find the least"


@formats
@pytest.mark.parametrize("kind", RANDOM)
def test_error_is_no_larger_than_with_the_widest_scale(isa, form, kind):
    weights = RANDOM[kind](np.random.default_rng(1), 40, 128).astype(np.float32)
    rows = by_group(form, weights)
    extreme = np.take_along_axis(rows, abs(rows).argmax(1)[:, None], 1)
    widest, _ = rounded(rows, extreme / form.low, form.low, form.high)
    errors, rounding = errors_of(form, isa, weights)
    assert (errors <= widest[:, 0] + rounding).all()


@formats
@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("k", [128, 256], ids=lambda k: f"k{k}")
def test_rows_that_codes_hold_are_held(isa, form, kind, k):
    weights = EXACT[kind](np.random.default_rng(0), 17, k).astype(np.float32)
    errors, rounding = errors_of(form, isa, weights)
    assert (errors <= rounding).all()


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("form", [form for form in FORMATS if form.low == -8], ids=str)
def test_four_bits_give_the_largest_weight_the_lowest_code(isa, form, sign):
    """-8 has no opposite: whatever the sign of the largest weight, the scale takes it."""
    weights = np.tile(sign * np.array([8, -7, 3, 1], np.float32), (3, 32))
    codes, scales = form.codes(isa, weights)
    np.testing.assert_array_equal(codes, np.tile([-8, 7, -3, -1], (3, 32)))
    np.testing.assert_array_equal(scales, -sign)
