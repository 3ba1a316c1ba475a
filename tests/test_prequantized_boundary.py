"""Bad codes, scales and groups: the exception, its message, and that nothing was lost."""

import pytest
import torch
from quantized_layer import CASES, EXPERTS, SCALES, WEIGHTS, Case, same
from small_layer import freed

INT8, INT4, GROUPED = CASES[0], CASES[1], CASES[2]


def at(name, change):
    """The arguments with one of them changed."""
    return lambda arguments: {**arguments, name: change(arguments[name])}


def put(value, *place):
    """A tensor with one value changed."""

    def change(tensor):
        copy = tensor.clone()
        copy[place] = value
        return copy

    return change


def without(*names):
    return lambda arguments: {k: v for k, v in arguments.items() if k not in names}


def originals(case):
    return lambda arguments: {**arguments, **case.weights()}


def zero_scale(arguments):
    """Of a group whose codes are not all zero."""
    return {**arguments, "down_scale": put(0, 2, 5, 1)(arguments["down_scale"])}


INF = float("inf")
NAN = float("nan")

FAULTS = [
    (GROUPED, at("gate_proj", put(8, 1, 3, 40)), ValueError, r"gate_proj\[1\]: row 3 .*-8 to 7"),
    (INT4, at("down_proj", put(-9, 2, 70, 37)), ValueError, r"down_proj\[2\]: row 70 .*-8 to 7"),
    (INT8, at("gate_scale", put(NAN, 2, 36)), ValueError, r"gate_scale\[2\]: row 36 .*NaN"),
    (INT4, at("up_scale", put(-INF, 0, 0)), ValueError, r"up_scale\[0\]: row 0 .*infinite"),
    (INT8, at("down_scale", put(0, 1, 69)), ValueError, r"down_scale\[1\]: row 69 .*zero"),
    (GROUPED, zero_scale, ValueError, r"down_scale\[2\]: row 5 .*zero"),
    (GROUPED, at("up_scale", put(INF, 1, 95, 4)), ValueError, r"up_scale\[1\]: row 95 "),
    (INT8, at("gate_scale", lambda s: s[:, :-1]), ValueError, "gate_scale: wanted shape .*rows=37"),
    (INT8, at("up_scale", lambda s: s[:-1]), ValueError, "up_scale: wanted shape .num_experts=3"),
    (INT8, at("up_scale", lambda s: s[..., None, None]), ValueError, "up_scale: wanted shape"),
    (INT8, at("up_scale", lambda s: s[..., None].repeat(1, 1, 2)), ValueError, "up_scale: wanted"),
    (GROUPED, at("gate_scale", lambda s: s[..., 0]), ValueError, "gate_scale: .*cols/32=5.*got"),
    (GROUPED, at("gate_scale", lambda s: s[..., :4]), ValueError, "gate_scale: .*cols/32=5.*, 4"),
    (GROUPED, at("down_scale", lambda s: s.mT), ValueError, "down_scale: .*rows=160, cols/32=3"),
    (INT8, at("gate_scale", lambda s: s.double()), TypeError, "gate_scale: .*float16.*float64"),
    (INT8, at("gate_scale", lambda s: s.to("meta")), ValueError, "gate_scale: .*meta"),
    (INT8, at("gate_scale", freed), ValueError, "gate_scale: .*freed"),
    (INT8, at("gate_scale", lambda s: 0.5), TypeError, "gate_scale: .*iterable.*got float"),
    (INT8, at("up_scale", lambda s: None), TypeError, "up_scale: .*iterable.*got NoneType"),
    (INT8, without("up_scale"), TypeError, "up_scale: .*iterable.*got NoneType"),
    (INT8, without(*SCALES), TypeError, "gate_proj: .*got torch.int8; codes need gate_scale"),
    (INT8, originals(INT8), TypeError, "gate_proj: wanted codes of dtype int8 or int32, as scales"),
    (INT4, originals(INT4), TypeError, "gate_proj: wanted codes of dtype int8 or uint8 or int32"),
    (INT8, at("up_proj", lambda c: c.to(torch.uint8)), TypeError, "up_proj: .*got torch.uint8"),
    (INT4, at("up_proj", lambda c: c.to(torch.int16)), TypeError, "up_proj: .*got torch.int16"),
    (INT4, at("up_proj", lambda c: c.to(torch.uint8)), ValueError, "up_proj: .*cols/2=36.*got"),
    (GROUPED, at("up_proj", lambda c: c.int()), ValueError, "up_proj: .*cols/8=20.*, 160"),
    (INT8, at("up_proj", lambda c: c.int()), ValueError, "up_proj: .*cols/4=18.*, 70"),
    (
        INT4,
        at("down_proj", lambda c: c[:, :-1]),
        ValueError,
        "down_proj: wanted .*rows=71, cols=38",
    ),
    (INT4, at("down_proj", freed), ValueError, "down_proj: .*freed"),
    (INT4, at("down_proj", lambda c: c.to("meta")), ValueError, "down_proj: .*meta"),
]


def refuses(layer, arguments, error, message):
    with pytest.raises(error, match=rf"^{message}"):
        layer.load_weights_from_tensors(**arguments)
    assert not layer._weights_loaded


@pytest.mark.parametrize(("case", "change", "error", "message"), FAULTS)
def test_bad_codes_are_refused_before_anything_is_allocated(case, change, error, message):
    layer = case.wrapper()
    refuses(layer, change(case.codes()), error, message)
    assert layer._layer.weight_bytes == 0
    layer.load_weights_from_tensors(**case.codes())
    assert same(case.step(layer), case.results(case.codes()))


def with_matrix(name, index, change):
    """All as lists of matrices, one matrix changed."""

    def make(arguments):
        lists = {key: list(tensor) for key, tensor in arguments.items()}
        lists[name][index] = change(lists[name][index])
        return lists

    return make


def shorter(name):
    return lambda arguments: {**arguments, name: iter(arguments[name][:-1])}


def longer(name):
    return lambda arguments: {**arguments, name: [*arguments[name], arguments[name][0]]}


ONE_BY_ONE = [
    (GROUPED, with_matrix("gate_proj", 1, put(8, 3, 40)), ValueError, r"gate_proj\[1\]: row 3 "),
    (INT8, with_matrix("down_scale", 2, put(0, 69)), ValueError, r"down_scale\[2\]: row 69 .*zero"),
    (GROUPED, with_matrix("up_scale", 1, put(INF, 95, 4)), ValueError, r"up_scale\[1\]: row 95 "),
    (INT4, with_matrix("up_scale", 2, lambda s: s[1:]), ValueError, r"up_scale\[2\]: .*rows=38"),
    (INT4, with_matrix("up_scale", 2, lambda s: s[0]), ValueError, r"up_scale\[2\]: .*rows=38"),
    (INT4, with_matrix("up_scale", 2, freed), ValueError, r"up_scale\[2\]: .*freed"),
    (INT4, with_matrix("up_proj", 1, freed), ValueError, r"up_proj\[1\]: .*freed"),
    (INT4, with_matrix("up_proj", 1, lambda c: c.half()), TypeError, r"up_proj\[1\]: wanted codes"),
    (INT4, with_matrix("up_proj", 1, lambda c: c.mT), ValueError, r"up_proj\[1\]: wanted shape"),
    (INT8, with_matrix("gate_scale", 0, lambda s: 1.0), TypeError, r"gate_scale\[0\]: .*got float"),
    (INT8, shorter("gate_scale"), ValueError, "gate_scale: wanted 3 experts, got 2"),
    (INT8, longer("down_scale"), ValueError, "down_scale: wanted 3 experts, got more"),
    (INT8, longer("down_proj"), ValueError, "down_proj: wanted 3 experts, got more"),
]


@pytest.mark.parametrize(("case", "change", "error", "message"), ONE_BY_ONE)
def test_bad_codes_are_refused_as_they_are_drawn(case, change, error, message):
    layer = case.wrapper()
    refuses(layer, change(case.codes()), error, message)
    layer.load_weights_from_tensors(**case.codes())
    assert same(case.step(layer), case.results(case.codes()))


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("case", CASES[:3], ids=str)
def test_weights_that_cannot_be_rounded_are_refused(case, value, name):
    weights = case.weights()
    bad = {**weights, name: put(value, 1, 33, 2)(weights[name])}
    message = rf"{name}\[1\]: row 33 holds NaN or infinity.*{case.format}"
    layer = case.wrapper()
    refuses(layer, bad, ValueError, message)
    assert layer._layer.weight_bytes == 0
    refuses(layer, {n: iter(list(w)) for n, w in bad.items()}, ValueError, message)
    layer.load_weights_from_tensors(**weights)
    assert same(case.step(layer), case.results(weights))


@pytest.mark.parametrize("name", SCALES)
def test_bf16_takes_no_scales(name):
    case = Case("AMXBF16_SFT", "bf16", 16, 0, 70, 37)
    layer = case.wrapper()
    refuses(
        layer,
        {**case.weights(), name: torch.ones(EXPERTS, 37)},
        ValueError,
        f"{name}: AMXBF16_SFT takes no codes",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_size": 16}, "group_size: wanted 32, 64 or 128, got 16"),
        ({"group_size": 256}, "group_size: wanted 32, 64 or 128, got 256"),
        ({"group_size": 64}, "hidden_size: wanted a multiple of group_size=64, got 160"),
        (
            {"group_size": 64, "hidden_size": 192},
            "moe_intermediate_size: .*threadpool_count=1 times group_size=64, got 96",
        ),
        (
            {"threadpool_count": 2},
            "moe_intermediate_size: .*threadpool_count=2 times group_size=32, got 96",
        ),
        (
            {"threadpool_count": 2, "moe_intermediate_size": 160},
            "moe_intermediate_size: .*threadpool_count=2 times group_size=32, got 160",
        ),
    ],
)
def test_groups_must_divide_every_matrix_of_every_part(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        GROUPED.wrapper(**options)


def test_methods_without_groups_ignore_their_size():
    assert same(INT4.results(INT4.codes(), group_size=7), INT4.results(INT4.codes()))
