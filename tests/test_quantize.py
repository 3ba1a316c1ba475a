"""kt_kernel.quantize and dequantize: the layer's own rounding, outside of a layer."""

import pytest
import torch
from quantized_layer import CASES, EXPERTS, SCALES, WEIGHTS, packed
from small_layer import freed, strided

from kt_kernel import dequantize, quantize
from kt_kernel._native import ext

ROWS = 300  # more than a task takes
LEAST = {"int8": -127, "int4": -8, "int4_kgroup": -8}


def weight(case, rows=ROWS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, case.hidden, generator=generator)


def spread(scales, case):
    """A scale for each weight."""
    scales = scales if case.group else scales.unsqueeze(-1)
    return scales.repeat_interleave(case.group or case.hidden, dim=-1)


def assert_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_layer_from_codes_is_the_layer_from_the_weights(isa, case):
    assert_same(case.results(case.rounded()), case.results(case.weights()))


@pytest.mark.parametrize("case", [case for case in CASES if case.group], ids=str)
def test_so_is_one_of_several_parts_where_scales_are_of_groups(case):
    parts = case.inter // case.group
    assert parts > 1
    assert_same(
        case.results(case.rounded(), threadpool_count=parts),
        case.results(case.weights(), threadpool_count=parts),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_codes_are_the_nearest_for_their_scale(isa, case, dtype):
    w = weight(case).to(dtype)
    codes, scales = quantize(w, case.format, case.group or 128)
    assert codes.dtype == torch.int8
    assert codes.shape == w.shape
    assert scales.dtype == torch.float32
    assert scales.shape == ((ROWS, case.hidden // case.group) if case.group else (ROWS,))
    exact = w.double() / spread(scales.double(), case)
    low, high = LEAST[case.format], 2 ** (case.bits - 1) - 1
    # A quotient within float32's error of a half may go either way.
    assert ((codes - exact.clamp(low, high)).abs() <= 0.5 + 1e-4).all()
    assert codes.min() == low
    assert codes.max() == high


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_rounds_as_packing_does(isa, case):
    w = weight(case)
    there_and_back = dequantize(*quantize(w, case.method, case.group or 128), case.method)
    expected = ext._ops.roundtrip(isa, case.format, w.numpy(), case.group or 128)
    assert torch.equal(there_and_back, torch.from_numpy(expected))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_weights_are_scale_times_code(case):
    codes, scales = quantize(weight(case), case.format, case.group or 128)
    expected = codes.float() * spread(scales, case)
    assert torch.equal(dequantize(codes, scales, case.format), expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_largest_weights_round_as_others_do(case):
    ordinary = weight(case)
    ordinary *= 1.99 / ordinary.abs().max()
    group = case.group or 128
    codes, scales = quantize(ordinary, case.format, group)
    largest_codes, largest_scales = quantize(ordinary * 2.0**127, case.format, group)
    assert torch.equal(largest_codes, codes)
    assert torch.equal(largest_scales, scales * 2.0**127)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_largest_scales_are_held(case):
    codes, scales = quantize(weight(case), case.format, case.group or 128)
    codes.clamp_(-1, 1)
    scales[:] = 3.25 * 2.0**126
    expected = codes.float() * spread(scales, case)
    assert torch.equal(dequantize(codes, scales, case.format), expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_experts_rows_and_strides_do_not_matter(case):
    group = case.group or 128
    matrices = [weight(case, seed=seed) for seed in range(EXPERTS)]
    each = [quantize(matrix, case.format, group) for matrix in matrices]
    expected = [torch.stack(parts) for parts in zip(*each, strict=True)]
    stacked = torch.stack(matrices)
    for source in (stacked, strided(stacked), stacked.mT.contiguous().mT):
        assert_same(quantize(source, case.format, group), expected)
    weights = dequantize(*expected, case.format)
    assert torch.equal(weights, torch.stack([dequantize(*pair, case.format) for pair in each]))
    for row in (0, 255, 256, ROWS - 1):
        assert_same(
            quantize(matrices[0][row : row + 1], case.format, group),
            [part[row : row + 1] for part in each[0]],
        )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_weights_of_zero_have_scales_of_zero_and_load(case):
    weights = case.weights()
    weights["up_proj"][1, 3] = 0
    codes, scales = quantize(weights["up_proj"], case.method, case.group or 128)
    assert not codes[1, 3].any()
    assert not scales[1, 3].any()
    assert not dequantize(codes, scales, case.method)[1, 3].any()
    arguments = {**case.rounded(), "up_proj": codes, "up_scale": scales}
    assert_same(case.results(arguments), case.results(weights))


def test_scales_far_below_their_row_come_back_as_they_are(isa):
    """They are held in float16 in units of their row's: bits are lost once, not twice.

    The first group is one whose best scale exceeds that of its extreme, a power of two.
    """
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(256, 128, generator=generator)
    w *= 2.0 ** -torch.randint(10, 26, (256, 1), generator=generator)
    w[:, :32] = torch.randint(-7, 8, (256, 32), generator=generator) * 1.06 / 8
    w[:, 0] = 1
    codes, scales = quantize(w, "int4_kgroup", 32)
    assert (scales[:, 0].abs() > 1 / 8).any()
    expected = codes.float() * scales.repeat_interleave(32, dim=1)
    assert torch.equal(dequantize(codes, scales, "int4_kgroup"), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_dequantize_takes_what_a_layer_takes(case, dtype):
    arguments = case.codes()
    expected = {}
    for name, scale_name in zip(WEIGHTS, SCALES, strict=True):
        codes, scales = arguments[name], arguments[scale_name].to(dtype)
        cols = codes.shape[-1]
        each = (scales if case.group else scales.unsqueeze(-1)).float()
        expected = codes.float() * each.repeat_interleave(case.group or cols, dim=-1)
        assert torch.equal(dequantize(codes, scales, case.method), expected)
        assert torch.equal(dequantize(codes[1], scales[1], case.method), expected[1])
        if not case.group:
            with_axis = dequantize(codes, scales.unsqueeze(-1), case.method)
            assert torch.equal(with_axis, expected)
        for packing in [torch.int32] if case.bits == 8 else [torch.uint8, torch.int32]:
            whole = cols // 8 * 8  # packed rows are full
            if case.group == 0 or whole == cols:
                weights = dequantize(
                    packed(codes[..., :whole], case.bits, packing), scales, case.format
                )
                assert torch.equal(weights, expected[..., :whole])


def test_float32_scales_of_groups_are_held_in_11_bits():
    codes = torch.full((2, 128), 7, dtype=torch.int8)
    scales = torch.tensor([[1 / 3, 0.1, 0.7, 1.0], [1e-3, 1e-2, 1e20, 1e19]])
    weights = dequantize(codes, scales, "int4_kgroup").view(2, 4, 32)
    relative = (weights[..., 0] / (7 * scales) - 1).abs()
    assert (relative[0] <= 2.0**-11).all()
    assert relative[0].max() > 0
    assert (relative[1, 2:] <= 2.0**-11).all()
    assert (weights[1, :2] == 0).all()  # 2^-24 of the row's unit and less


# ---- bad arguments ----

PLAIN = torch.ones(4, 256)
NAN, INFINITE = PLAIN.clone(), PLAIN.bfloat16()
NAN[2, 17], INFINITE[3, 255] = float("nan"), -float("inf")

QUANTIZE_FAULTS = [
    (PLAIN.tolist(), "int8", 128, TypeError, "^weight: wanted a torch.Tensor, got list"),
    (PLAIN.half(), "int8", 128, TypeError, "^weight: wanted dtype bfloat16 or float32.*float16"),
    (PLAIN.to("meta"), "int8", 128, ValueError, "^weight: .*meta"),
    (freed(PLAIN), "int8", 128, ValueError, "^weight: .*freed"),
    (PLAIN[0], "int8", 128, ValueError, r"^weight: wanted shape \[N, K\].*got \[256\]"),
    (PLAIN[:, :0], "int8", 128, ValueError, r"^weight: wanted shape \[N, K\].*got \[4, 0\]"),
    (NAN, "int8", 128, ValueError, "^weight: row 2 holds NaN or infinity"),
    (NAN, "int4_kgroup", 32, ValueError, "^weight: row 2 holds NaN or infinity"),
    (torch.stack([PLAIN.bfloat16(), INFINITE]), "int4", 128, ValueError, "^weight.1.: row 3 "),
    (PLAIN, "AMXBF16_SFT", 128, ValueError, "^method: wanted one with integer weights, got bf16"),
    (PLAIN, "AMXINT5", 128, ValueError, "^method: 'AMXINT5' is unknown; available: AMXBF16_SFT"),
    (PLAIN, None, 128, ValueError, "^method: None is unknown"),
    (PLAIN, "int4_kgroup", 96, ValueError, "^group_size: wanted 32, 64 or 128, got 96"),
    (PLAIN, "int4_kgroup", 0, ValueError, "^group_size"),
    (PLAIN, "int4_kgroup", 32.0, TypeError, "^group_size"),
    (PLAIN[:, :192], "int4_kgroup", 128, ValueError, "^weight: .*group_size=128 columns, got 192"),
]


@pytest.mark.parametrize(("w", "method", "group", "error", "message"), QUANTIZE_FAULTS)
def test_quantize_refuses(w, method, group, error, message):
    with pytest.raises(error, match=message):
        quantize(w, method, group)


CODES, ONES = torch.ones(4, 256, dtype=torch.int8), torch.ones(4, 8)
WIDE, ZERO = CODES.clone(), torch.ones(4, 8)
WIDE[1, 200] = 8
ZERO[3, 7] = 0

DEQUANTIZE_FAULTS = [
    (CODES.float(), ONES[:, 0], "int8", TypeError, "^codes: wanted codes of dtype int8 or int32"),
    (CODES[0], ONES[:, 0], "int8", ValueError, r"^codes: wanted shape \[N, K\]"),
    (CODES, None, "int8", TypeError, "^scales: wanted a torch.Tensor, got NoneType"),
    (CODES, ONES[:, 0].double(), "int8", TypeError, "^scales: wanted dtype bfloat16.*float64"),
    (CODES, ONES[:3, 0], "int8", ValueError, r"^scales: wanted shape \[rows=4\], got \[3\]"),
    (CODES, ONES, "int8", ValueError, r"^scales: wanted shape \[rows=4, 1=1\], got \[4, 8\]"),
    (CODES, ONES[:, :3], "int4_kgroup", ValueError, r"^scales: wanted shape .*got \[4, 3\]"),
    (CODES, ONES[0, 0], "int4_kgroup", ValueError, "^scales: wanted shape"),
    (WIDE, ONES, "int4_kgroup", ValueError, "^codes: row 1 holds a code out of range.*-8 to 7"),
    (WIDE, ONES[:, 0], "int4", ValueError, "^codes: row 1 holds a code out of range"),
    (CODES, ONES[:, 0] * float("nan"), "int8", ValueError, "^scales: row 0 holds a scale"),
    (CODES, ONES * float("inf"), "int4_kgroup", ValueError, "^scales: row 0 holds a scale"),
    (CODES, ZERO, "int4_kgroup", ValueError, "^scales: row 3 holds a scale.*zero"),
    (CODES, freed(ONES), "int4_kgroup", ValueError, "^scales: .*freed"),
    (CODES, ONES[:, 0], "bf16", ValueError, "^method: wanted one with integer weights, got bf16"),
]


@pytest.mark.parametrize(("codes", "scales", "method", "error", "message"), DEQUANTIZE_FAULTS)
def test_dequantize_refuses(codes, scales, method, error, message):
    with pytest.raises(error, match=message):
        dequantize(codes, scales, method)


def test_more_rows_than_are_counted_are_refused_before_any_is_read():
    rows = 2**32 + 16
    codes = ext.Tensor("codes", 64, "int8", [rows, 8])
    weights = ext.Tensor("weight", 64, "bfloat16", [rows, 8])
    scales = ext.Tensor("scales", 64, "float32", [rows])
    with pytest.raises(ValueError, match=r"codes: shape \[4294967312, 8\], wanted at most"):
        ext.quantize("int8", weights, codes, scales)
    with pytest.raises(ValueError, match="wanted at most"):
        ext.dequantize("int8", codes, scales, weights)
