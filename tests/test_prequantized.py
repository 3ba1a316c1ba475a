"""Weights that come as codes and scales: every packing, and what is computed with them."""

import pytest
import torch
from quantized_layer import CASES, SCALES, WEIGHTS, packed, same
from small_layer import assert_near, strided

from kt_kernel import dequantize
from kt_kernel.codes import CodeFormat
from kt_kernel.reference import moe_reference

# Of the kernel alone: activations are rounded to 8 bits, and for gradients groups' codes as well.
OUTPUT_LIMIT, GRADIENT_LIMIT = 0.012, 0.02


@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_are_those_of_the_weights_that_codes_mean(isa, case):
    arguments = case.codes()
    weights = [
        dequantize(arguments[name], arguments[scale], case.method)
        for name, scale in zip(WEIGHTS, SCALES, strict=True)
    ]
    inputs = case.inputs()
    expected = moe_reference(
        inputs.hidden_states,
        inputs.expert_ids,
        inputs.weights,
        list(zip(*weights, strict=True)),
        case.loras(),
        case.wrapper().lora_scaling,
        grad_output=inputs.grad_output,
    )
    output, *gradients = case.results(arguments)
    assert_near(output, expected.output, OUTPUT_LIMIT)
    wanted = [expected.grad_input, *expected.grad_loras.values(), expected.grad_weights]
    for gradient, reference in zip(gradients, wanted, strict=True):
        assert_near(gradient, reference, GRADIENT_LIMIT)


def in_uint8(arguments, case):
    return repacked(arguments, case, torch.uint8)


def in_int32(arguments, case):
    return repacked(arguments, case, torch.int32)


def repacked(arguments, case, dtype):
    codes = {name: packed(arguments[name], case.bits, dtype) for name in WEIGHTS}
    return {**arguments, **codes}


def in_lists(arguments, case):
    return {name: list(tensor) for name, tensor in arguments.items()}


def one_by_one(arguments, case):
    arguments = in_int32(arguments, case)
    return {name: (matrix.clone() for matrix in tensor) for name, tensor in arguments.items()}


def with_gaps(arguments, case):
    return {name: strided(tensor) for name, tensor in arguments.items()}


def packed_with_gaps(arguments, case):
    return with_gaps(in_int32(arguments, case), case)


def transposed(arguments, case):
    return {
        name: tensor.mT.contiguous().mT if tensor.dim() == 3 else tensor.T.contiguous().T
        for name, tensor in arguments.items()
    }


def scales_with_an_axis(arguments, case):
    return {**arguments, **{name: arguments[name].unsqueeze(-1) for name in SCALES}}


def scales_in_bfloat16(arguments, case):
    return {**arguments, **{name: arguments[name].bfloat16() for name in SCALES}}


def scales_in_float16(arguments, case):
    scales = {name: arguments[name].half() for name in SCALES}
    assert all(torch.equal(scales[name].float(), arguments[name]) for name in SCALES)
    return {**arguments, **scales}


WAYS = [
    in_int32,
    in_lists,
    one_by_one,
    with_gaps,
    packed_with_gaps,
    transposed,
    scales_in_bfloat16,
    scales_in_float16,
]
PAIRS = [
    *((case, way) for case in CASES for way in WAYS),
    *((case, in_uint8) for case in CASES if case.bits == 4),
    *((case, scales_with_an_axis) for case in CASES if not case.group),
]


# A function's str has its address, which differs from process to process.
@pytest.mark.parametrize(
    ("case", "way"), PAIRS, ids=lambda each: getattr(each, "__name__", str(each))
)
def test_every_way_of_passing_them_gives_the_same_layer(case, way):
    order = torch.tensor([1, 2, 0])
    arguments = way(case.codes(), case)
    assert same(case.results(arguments, order), case.results(case.codes(), order))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_slot_computes_with_the_mapped_codes(case):
    order = torch.tensor([2, 0, 1])
    arguments = case.codes()
    moved = {name: tensor[order] for name, tensor in arguments.items()}
    assert same(case.results(arguments, order), case.results(moved))


@pytest.mark.parametrize("case", [CASES[1], *CASES[3:]], ids=str)
def test_parts_hold_the_same_codes(case):
    whole, parts = case.results(case.codes()), case.results(case.codes(), threadpool_count=2)
    for one, two in zip(whole, parts, strict=True):
        assert_near(two, one, GRADIENT_LIMIT)


@pytest.mark.parametrize(
    ("words", "bits", "codes"),
    [
        # What compressed-tensors' pack_to_int32 is documented to make of 8 bits: 1, 2.
        ([33409], 8, [1, 2]),
        ([0x76543210], 4, [-8, -7, -6, -5, -4, -3, -2, -1]),
        ([0x76543210, -0x01234568], 4, [*range(-8, 0), 0, 1, 2, 3, 4, 5, 6, 7]),
        ([-1], 4, [7] * 8),
        ([-1], 8, [127] * 4),
        ([0], 8, [-128, -128, -128]),
    ],
)
def test_words_hold_the_first_code_in_their_lowest_bits(words, bits, codes):
    layout = CodeFormat(bits, 0)
    word = torch.tensor([words], dtype=torch.int32)
    assert layout.unpacked(word, len(codes)).tolist() == [codes]


def test_bytes_hold_the_first_of_two_codes_in_their_low_half():
    layout = CodeFormat(4, 0)
    packed_row = torch.tensor([[0x10, 0xF8]], dtype=torch.uint8)
    assert layout.unpacked(packed_row, 3).tolist() == [[-8, -7, 0]]
    assert layout.unpacked(packed_row, 4).tolist() == [[-8, -7, 0, 7]]
