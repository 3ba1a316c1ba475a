"""What the native layer refuses by itself, whatever kt_kernel.checks lets through: before it reads
or writes, and so that the next call works."""

import pytest
import torch
from native_layer import Sizes, backward, forward, make_layer, make_problem, step, unwritten, view
from test_layer_native import assert_same_bits

from kt_kernel._native import ext

SIZES = Sizes(experts=3, hidden=64, inter=96, top_k=2, tokens=5, rank=4)
PROBLEM = make_problem(SIZES)
LORAS = ["gate_a", "gate_b", "up_a", "up_b", "down_a", "down_b"]

# Of address, dtype and shape. What a dtype is taken for must not depend on its size.
FAULTS = {
    "rows": lambda address, dtype, shape: (address, dtype, [shape[0] + 1, *shape[1:]]),
    "columns": lambda address, dtype, shape: (address, dtype, [*shape[:-1], shape[-1] - 1]),
    "dimensions": lambda address, dtype, shape: (address, dtype, [1, *shape]),
    "memory": lambda address, dtype, shape: (0, dtype, shape),
    "four_bytes": lambda address, dtype, shape: (
        (address, "float32" if dtype == "int64" else "int32", shape)
    ),
    "one_byte": lambda address, dtype, shape: (
        (address, "int8" if dtype == "bool" else "bool", shape)
    ),
}
faults = pytest.mark.parametrize("fault", FAULTS)


def views(tensors, bad, fault):
    """Of named tensors, one of them with a fault."""

    def of(name, tensor):
        if tensor is None:
            return None
        dtype = str(tensor.dtype).removeprefix("torch.")
        it = (tensor.data_ptr(), dtype, list(tensor.shape))
        return ext.Tensor(name, *(FAULTS[fault](*it) if name == bad else it))

    return [of(name, tensor) for name, tensor in tensors.items()]


def refused(bad):
    return pytest.raises(ValueError, match=rf"^{bad}: .*(wanted|no memory)")


@faults
@pytest.mark.parametrize("bad", ["x", "ids", "weights", "out", "skip"])
def test_forward(bad, fault):
    tensors = {
        "x": PROBLEM.x,
        "ids": PROBLEM.ids,
        "weights": PROBLEM.weights,
        "out": unwritten(PROBLEM.x),
        "skip": torch.zeros(SIZES.experts, dtype=torch.bool),
    }
    layer = make_layer(PROBLEM)
    *inputs, skip = views(tensors, bad, fault)
    # The number of tokens is that of x: the others do not have as many.
    with refused("ids" if (bad, fault) == ("x", "rows") else bad):
        layer.forward(*inputs, True, skip)
    assert tensors["out"].isnan().all()
    assert_same_bits(step(layer, PROBLEM), step(make_layer(PROBLEM), PROBLEM))


@faults
@pytest.mark.parametrize("bad", ["grad_out", "grad_x", *LORAS, "grad_weights"])
def test_backward(bad, fault):
    layer = make_layer(PROBLEM)
    output, ticket = forward(layer, PROBLEM)
    tensors = {
        "grad_out": PROBLEM.grad_output,
        "grad_x": unwritten(PROBLEM.x),
        **{name: unwritten(tensor) for name, tensor in zip(LORAS, PROBLEM.loras, strict=True)},
        "grad_weights": unwritten(PROBLEM.weights),
    }
    grad_out, grad_x, *loras, grad_weights = views(tensors, bad, fault)
    with refused(bad):
        layer.backward(ticket, grad_out, grad_x, loras, grad_weights)
    assert all(t.isnan().all() for name, t in tensors.items() if name != "grad_out")
    expected = step(make_layer(PROBLEM), PROBLEM)
    assert_same_bits(backward(layer, PROBLEM, output, ticket), expected)


@pytest.mark.parametrize("count", [0, 5, 7])
def test_backward_wants_six_gradients(count):
    layer = make_layer(PROBLEM)
    forward(layer, PROBLEM)
    loras = [unwritten(t) for t in (PROBLEM.loras * 2)[:count]]
    with pytest.raises(ValueError, match=f"^{count} LoRA gradients, wanted 6"):
        layer.backward(0, view(PROBLEM.grad_output), view(PROBLEM.x), list(map(view, loras)))


@faults
@pytest.mark.parametrize("bad", LORAS)
def test_adapters(bad, fault):
    layer = make_layer(PROBLEM)
    with refused(bad):
        layer.set_lora(views(dict(zip(LORAS, PROBLEM.loras, strict=True)), bad, fault))
    assert_same_bits(step(layer, PROBLEM), step(make_layer(PROBLEM), PROBLEM))


def test_adapters_are_six_of_one_dtype():
    layer = make_layer(PROBLEM)
    for count in (5, 7):
        with pytest.raises(ValueError, match=f"^{count} LoRA tensors, wanted 6"):
            layer.set_lora([view(t) for t in (PROBLEM.loras * 2)[:count]])
    mixed = [*PROBLEM.loras[:5], PROBLEM.loras[5].float()]
    with pytest.raises(ValueError, match=r"down_b: dtype float32, wanted that of gate_a"):
        layer.set_lora([view(t, name) for t, name in zip(mixed, LORAS, strict=True)])


def bare(**options):
    """A layer without weights or adapters."""
    sizes = {"num_experts": SIZES.experts, "hidden_size": SIZES.hidden, "top_k": SIZES.top_k}
    return ext.Layer(**{**sizes, "intermediate_size": SIZES.inter, **options})


def test_adapters_must_be_set():
    layer = bare(lora_rank=SIZES.rank)
    for slot, weights in enumerate(PROBLEM.experts):
        layer.load_expert(slot, *map(view, weights))
    with pytest.raises(RuntimeError, match="LoRA tensors are not set"):
        forward(layer, PROBLEM)
    with pytest.raises(RuntimeError, match="for a layer of lora_rank 0"):
        bare().set_lora(list(map(view, PROBLEM.loras)))


@faults
@pytest.mark.parametrize("form", ["bf16", "int8"])
@pytest.mark.parametrize("bad", ["gate", "up", "down"])
def test_weights(bad, form, fault):
    layer = bare(format=form)
    expert = dict(zip(["gate", "up", "down"], PROBLEM.experts[0], strict=True))
    with refused(bad):
        layer.load_expert(0, *views(expert, bad, fault))
    assert layer.weight_bytes == 0


CODES = ["gate", "up", "down", "gate_scale", "up_scale", "down_scale"]


def codes(group):
    """Of one expert, and their scales."""
    shapes = [(SIZES.inter, SIZES.hidden)] * 2 + [(SIZES.hidden, SIZES.inter)]
    scales = [(n, k // group) if group else (n,) for n, k in shapes]
    tensors = [torch.ones(shape, dtype=torch.int8) for shape in shapes]
    return dict(zip(CODES, tensors + [torch.ones(shape) for shape in scales], strict=True))


@faults
@pytest.mark.parametrize(("form", "group"), [("int8", 0), ("int4_kgroup", 32)])
@pytest.mark.parametrize("bad", CODES)
def test_codes(bad, form, group, fault):
    layer = bare(format=form, group_size=group or 128)
    tensors = views(codes(group), bad, fault)
    with refused(bad):
        layer.load_codes(0, tensors[:3], tensors[3:])
    assert layer.weight_bytes == 0


def test_codes_are_three_of_each():
    layer = bare(format="int8")
    tensors = [view(t) for t in codes(0).values()]
    for some in ((tensors[:2], tensors[3:]), (tensors[:3], tensors[4:])):
        with pytest.raises(ValueError, match=r"^wanted codes and scales of gate, up and down"):
            layer.load_codes(0, *some)


@pytest.mark.parametrize("slot", [-1, SIZES.experts])
def test_slots(slot):
    with pytest.raises(ValueError, match=rf"^expert is {slot}, wanted 0 to 2$"):
        bare().load_expert(slot, *map(view, PROBLEM.experts[0]))
    tensors = [view(t) for t in codes(0).values()]
    with pytest.raises(ValueError, match=rf"^expert is {slot}, wanted 0 to 2$"):
        bare(format="int8").load_codes(slot, tensors[:3], tensors[3:])


@faults
@pytest.mark.parametrize("group", [0, 32])
@pytest.mark.parametrize("bad", ["codes", "scales", "weights"])
@pytest.mark.parametrize("call", ["quantize", "dequantize"])
def test_rounding(call, bad, group, fault):
    form = "int4_kgroup" if group else "int8"
    matrix, scales = codes(group)["down"], codes(group)["down_scale"]
    tensors = {"codes": matrix, "scales": scales, "weights": torch.full(matrix.shape, 5.0)}
    code, scale, weights = views(tensors, bad, fault)
    arguments = (weights, code, scale) if call == "quantize" else (code, scale, weights)
    with pytest.raises(ValueError, match=r"wanted|no memory"):
        getattr(ext, call)(form, *arguments)
    assert (tensors["weights"] == 5).all()
    assert (matrix == 1).all()


@pytest.mark.parametrize("column", [0, 31, 32, 95])
@pytest.mark.parametrize("group", [0, 32])
def test_a_scale_of_zero_is_for_codes_of_zero(group, column):
    form = "int4_kgroup" if group else "int8"
    code, scale = codes(group)["down"].zero_(), codes(group)["down_scale"]
    weights = torch.full(code.shape, torch.nan)
    code[3, column] = 1
    scale[4:] = 0
    ext.dequantize(form, view(code), view(scale), view(weights))
    assert weights[3, column] == 1
    assert weights.count_nonzero() == 1
    if group:
        scale[3, column // group] = 0
    else:
        scale[3] = 0
    with pytest.raises(ValueError, match=r"row 3 holds a scale that is .* zero for codes"):
        ext.dequantize(form, view(code), view(scale), view(weights))


def test_groups_must_be_whole():
    weights, scale = torch.ones(4, 70), torch.ones(4, 70 // 32)
    code = torch.zeros(4, 70, dtype=torch.int8)
    with pytest.raises(ValueError, match=r"^s: shape \[4, 2\], wanted a scale for every 32"):
        ext.quantize("int4_kgroup", view(weights), view(code), view(scale, "s"))


def test_the_first_bad_row_is_named_whichever_is_found_first():
    weights = torch.ones(600, 8)
    weights[[2, 300, 599]] = torch.nan
    code, scale = torch.empty(600, 8, dtype=torch.int8), torch.empty(600)
    with pytest.raises(ValueError, match=r"^w: row 2 holds NaN"):
        ext.quantize("int8", view(weights, "w"), view(code), view(scale), threads=1)


GROUPED = {"format": "int4_kgroup", "group_size": 32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": 5}, "parts is 5, wanted a divisor of intermediate_size 96"),
        ({"parts": 0}, "parts is 0, wanted 1 to 96"),
        ({"lora_rank": 257}, "lora_rank is 257, wanted 0 to 256"),
        ({"lora_rank": -1}, "lora_rank is -1"),
        ({"top_k": 0}, "top_k is 0"),
        ({"num_experts": 0}, "num_experts is 0"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"cache_depth": -1}, "cache_depth is -1"),
        ({"chunk_tokens": 0}, "chunk_tokens is 0"),
        ({**GROUPED, "group_size": 16}, "group_size is 16, wanted 32, 64 or 128"),
        ({**GROUPED, "hidden_size": 80}, "hidden_size is 80, wanted a multiple of group_size 32"),
        ({**GROUPED, "parts": 2}, "intermediate_size / parts is 48, wanted a multiple"),
        ({"format": "int3"}, "int3"),
    ],
    ids=str,
)
def test_the_constructor(options, message):
    with pytest.raises(ValueError, match=message):
        bare(**options)
