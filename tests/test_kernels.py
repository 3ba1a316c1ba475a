"""Every kernel of the extension but the products, on every instruction set that runs here, against
plain numpy, float64 and torch's own conversions."""

import numpy as np
import pytest
import torch
from bf16 import bf16_bits, from_bits, integers

from kt_kernel._native import ext

ops = ext._ops
SIZES = [1, 15, 16, 17, 33, 250, 300]
EPS = 2.0**-23  # of float32
TINY = 2.0**-126  # the smallest normal float32


def assert_same_floats(actual, expected):
    """Bit for bit, but for the payload and sign of NaN."""
    assert actual.dtype == expected.dtype
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), nan)
    bits = f"u{actual.itemsize}"
    np.testing.assert_array_equal(actual[~nan].view(bits), expected[~nan].view(bits))


def assert_rounded(bits, expected, error):
    """That these are values within `error` of what was expected, rounded to bfloat16."""
    low, high = (from_bits(bf16_bits(expected + sign * error)) for sign in (-1, 1))
    assert ((low <= from_bits(bits)) & (from_bits(bits) <= high)).all()


def every_rounding():
    """Each bfloat16 (NaN, infinities and denormals among them) with bits behind it that round it
    down, leave a tie, or round it up: float32 [1792, 256]."""
    behind = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x4000], np.uint32)
    bits = (np.arange(1 << 16, dtype=np.uint32) << 16)[:, None] | behind
    return bits.view(np.float32).reshape(-1, 256)


@pytest.mark.parametrize("n", SIZES, ids=lambda n: f"n{n}")
@pytest.mark.parametrize("k", SIZES, ids=lambda k: f"k{k}")
def test_roundtrip_of_bf16_keeps_every_place(isa, n, k):
    # One after another, so that no two of a row or column agree.
    bits = (0x2000 + np.arange(n * k)).astype(np.uint16).reshape(n, k)
    assert_same_floats(ops.roundtrip(isa, "bf16", from_bits(bits)), from_bits(bits))


def test_roundtrip_of_bf16_rounds_to_nearest_even(isa):
    values = every_rounding()
    assert_same_floats(ops.roundtrip(isa, "bf16", values), from_bits(bf16_bits(values)))


@pytest.mark.parametrize("count", [*SIZES, 1792 * 256], ids=lambda n: f"{n}_values")
def test_to_act_from_float32(isa, count):
    values = np.random.default_rng(count).permutation(every_rounding().ravel())[:count]
    result = ops.to_act(isa, values.tobytes(), "float32")
    assert_same_floats(from_bits(result), from_bits(bf16_bits(values)))


@pytest.mark.parametrize("count", [*SIZES, 1 << 16], ids=lambda n: f"{n}_values")
def test_to_act_from_float16(isa, count):
    every = np.arange(1 << 16, dtype=np.uint16)
    values = np.random.default_rng(count).permutation(every)[:count].view(np.float16)
    result = ops.to_act(isa, values.tobytes(), "float16")
    assert_same_floats(from_bits(result), from_bits(bf16_bits(values)))


@pytest.mark.parametrize("count", [*SIZES, 1 << 16], ids=lambda n: f"{n}_values")
def test_to_act_leaves_bfloat16_as_it_is(isa, count):
    every = np.arange(1 << 16, dtype=np.uint16)
    values = np.random.default_rng(count).permutation(every)[:count]
    np.testing.assert_array_equal(ops.to_act(isa, values.tobytes(), "bfloat16"), values)


def every_float16_rounding():
    """Each float16, the points halfway to the next, and what lies close to those; and float32 of
    all magnitudes."""
    half = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    exact = half[np.isfinite(half)].astype(np.float32)
    halfway = ((exact[1:].astype(np.float64) + exact[:-1]) / 2).astype(np.float32)
    any_bits = np.random.default_rng(0).integers(0, 1 << 32, 100_000, np.uint32).view(np.float32)
    special = np.array([np.nan, np.inf, -np.inf, 65519.996, 65520, 1e-45], np.float32)
    above, below = (
        np.nextafter(halfway, np.float32(np.inf)),
        np.nextafter(halfway, -np.float32(9e9)),
    )
    return np.concatenate([exact, halfway, above, below, any_bits, special])


ROUNDED = {
    "float32": lambda sums: sums,
    "bfloat16": lambda sums: from_bits(bf16_bits(sums)),
    "float16": lambda sums: torch.tensor(sums).half().numpy(),
}


def sum_parts(isa, parts, dtype):
    stored = ops.sum_parts(isa, parts, dtype)
    if dtype == "bfloat16":
        return from_bits(np.frombuffer(stored, np.uint16))
    return np.frombuffer(stored, dtype)


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("n", SIZES, ids=lambda n: f"n{n}")
def test_sum_parts_adds_in_order(isa, dtype, n):
    for count in (1, 2, 3, 8):
        parts = np.random.default_rng([n, count]).standard_normal((count, n)).astype(np.float32)
        sums = parts[0].copy()
        for part in parts[1:]:
            sums += part
        assert_same_floats(sum_parts(isa, parts, dtype), ROUNDED[dtype](sums))


@pytest.mark.parametrize("dtype", ROUNDED)
def test_sum_parts_rounds_as_torch_does(isa, dtype):
    values = np.concatenate([every_rounding().ravel(), every_float16_rounding()])
    assert_same_floats(sum_parts(isa, values[None], dtype), ROUNDED[dtype](values))


@pytest.mark.parametrize("m", [1, 7, 70])
@pytest.mark.parametrize("n", [16, 48, 304], ids=lambda n: f"n{n}")
def test_scatter_add_to_tokens_that_come_more_than_once(isa, m, n):
    rng = np.random.default_rng([m, n])
    c, out = integers(rng, m, n), integers(rng, 5, n)
    index = rng.integers(0, 4, m).astype(np.int32)  # the last token comes never
    scale = rng.integers(-3, 4, m).astype(np.float32)
    expected = out.copy()
    np.add.at(expected, index, scale[:, None] * c)
    np.testing.assert_array_equal(ops.scatter_add(isa, c, index, scale, out), expected)


def silu_and_sigmoid(x):
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-x))
    return x * sigmoid, sigmoid


def gates(rng, m, n):
    """Around zero, where it matters, and as far as float16 goes, and denormals."""
    x = rng.standard_normal((m, n)) * rng.choice([1e-3, 1, 10, 100, 1e4], (m, n))
    x.flat[:9] = [0.0, -0.0, 1e-40, -1e-40, 65504, -65504, 88.5, -88.5, -1.2784645]
    return from_bits(bf16_bits(x.astype(np.float32)))


@pytest.mark.parametrize(("m", "n"), [(1, 16), (3, 48), (70, 256)])
def test_swiglu(isa, m, n):
    rng = np.random.default_rng(m)
    g, u = gates(rng, m, n), rng.standard_normal((m, n)).astype(np.float32)
    g += g * rng.uniform(-1e-3, 1e-3, g.shape).astype(np.float32)  # not bfloat16
    gate, up, h = ops.swiglu(isa, g, u)
    np.testing.assert_array_equal(gate, bf16_bits(g))
    np.testing.assert_array_equal(up, bf16_bits(u))
    g, u = g.astype(np.float64), u.astype(np.float64)
    expected = silu_and_sigmoid(g)[0] * u
    # Below the smallest normal the sigmoid need not be right.
    assert_rounded(h, expected, 1e-6 * abs(expected) + TINY * (abs(g * u) + 1))


@pytest.mark.parametrize(("m", "n"), [(1, 16), (3, 48), (70, 256)])
def test_swiglu_backward(isa, m, n):
    rng = np.random.default_rng(m)
    gate = gates(rng, m, n)
    up = from_bits(bf16_bits(rng.standard_normal((m, n)).astype(np.float32)))
    dh = rng.standard_normal((m, n)).astype(np.float32)
    r = rng.uniform(0.1, 1, m).astype(np.float32)
    dgate, dup, h, dr = ops.swiglu_backward(isa, dh, r, bf16_bits(gate), bf16_bits(up))

    x, y, d = (t.astype(np.float64) for t in (gate, up, dh))
    silu, sigmoid = silu_and_sigmoid(x)
    tiny = TINY * (abs(x) + 1) * (abs(y) + 1) * (abs(d) + 1)
    weighted = r[:, None] * d
    assert_rounded(h, silu * y, 1e-6 * abs(silu * y) + tiny)
    assert_rounded(dup, weighted * silu, 1e-6 * abs(weighted * silu) + tiny)
    expected = weighted * y * sigmoid * (1 + x * (1 - sigmoid))
    # 1 and x (1 - sigmoid) cancel near x = -1.28; 1 - sigmoid is 0 in float32 beyond 17.
    terms = abs(weighted * y * sigmoid) * (1 + np.minimum(abs(x), 17))
    assert_rounded(dgate, expected, 1e-6 * (abs(expected) + terms) + tiny)
    sums = d * silu * y
    allowed = (n * EPS + 1e-6) * abs(sums).sum(1) + tiny.sum(1)
    assert (abs(dr - sums.sum(1)) <= allowed).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
def test_swiglu_hides_nothing_that_is_not_finite(isa, bad):
    ones, g, u = (np.ones((1, 16), np.float32) for _ in range(3))
    g[0, 3], u[0, 9] = bad, bad
    _, _, h = ops.swiglu(isa, g, u)
    dgate, _, _, dr = ops.swiglu_backward(isa, ones, np.ones(1), bf16_bits(g), bf16_bits(u))
    for values in (from_bits(h)[0], from_bits(dgate)[0]):
        np.testing.assert_array_equal(np.flatnonzero(~np.isfinite(values)), [3, 9])
    assert not np.isfinite(dr).any()


@pytest.mark.parametrize("transposed", [False, True], ids=["straight", "transposed"])
@pytest.mark.parametrize("rank", [1, 4, 16, 17, 256], ids=lambda n: f"rank{n}")
def test_outer(isa, transposed, rank):
    rng = np.random.default_rng(rank)
    for tokens in (1, 2, 31, 32, 33, 70):
        for first, last in ((0, 1), (0, 15), (16, 33), (16, 272), (32, 300 - 17)):
            low, wide = integers(rng, tokens, rank), integers(rng, tokens, 300)
            weight = 2.0 ** rng.integers(-2, 3, tokens)
            result = ops.outer(isa, low, weight, bf16_bits(wide), first, last, transposed)
            expected = (low * weight[:, None]).T @ wide[:, first:last].astype(np.float64)
            np.testing.assert_array_equal(result, expected.T if transposed else expected)
