"""The native layer, end to end, against float64 PyTorch with autograd, on every instruction set."""

import dataclasses

import pytest
import torch
from conftest import SUPPORTED
from native_layer import (
    Sizes,
    backward,
    forward,
    make_layer,
    make_problem,
    reference,
    step,
    unwritten,
    view,
)

from kt_kernel._native import ext

# Of inputs that bfloat16 holds: what remains is the rounding of what passes between the kernels.
# WORST is of a single number, in units of the tensor's root mean square.
OUTPUT, GRADIENT, WORST = 0.004, 0.006, 0.25

SIZES = [
    Sizes(),
    Sizes(experts=5, hidden=33, inter=17, top_k=3, tokens=11, rank=1),
    Sizes(experts=3, hidden=40, inter=24, top_k=2, tokens=7, rank=3),
    Sizes(experts=8, hidden=256, inter=192, top_k=4, tokens=40, rank=16),
    Sizes(experts=3, hidden=272, inter=304, top_k=2, tokens=13, rank=256),
    Sizes(experts=4, hidden=300, inter=250, top_k=2, tokens=70, rank=0),
    Sizes(experts=9, hidden=31, inter=600, top_k=2, tokens=2, rank=16),  # experts without tokens
    Sizes(experts=2, hidden=47, inter=63, top_k=2, tokens=350, rank=16),  # more than 256 each
    Sizes(experts=1, hidden=47, inter=63, top_k=1, tokens=300, rank=256),  # and as many columns
]
sizes = pytest.mark.parametrize("sizes", SIZES, ids=str)


def assert_near(results, expected, output=OUTPUT, gradient=GRADIENT, worst=WORST):
    for (name, actual), wanted in zip(
        results.named().items(), expected.named().values(), strict=True
    ):
        difference = (actual.double() - wanted).abs()
        if not wanted.any():
            assert not actual.any(), name
            continue
        error = difference.mean() / wanted.abs().mean()
        assert error < (output if name == "output" else gradient), name
        size = wanted[wanted != 0].square().mean().sqrt()
        assert difference.max() / size < worst, name


def assert_same_bits(results, expected):
    for (name, actual), wanted in zip(
        results.named().items(), expected.named().values(), strict=True
    ):
        assert torch.equal(actual, wanted), name


@sizes
def test_gradients_are_those_of_autograd(isa, sizes):
    problem = make_problem(sizes)
    layer = make_layer(problem)
    assert layer.isa == ""  # nothing ran yet
    results = step(layer, problem)
    assert layer.isa == isa
    assert_near(results, reference(problem))


def test_the_instruction_set_is_that_of_the_workers():
    """Late to a small layer, the calling thread may have had no product of its own."""
    problem = make_problem(Sizes(experts=2, hidden=200, inter=200, tokens=2))
    layers = {}
    for name in SUPPORTED:
        ext.force_isa(name)
        layers[name] = make_layer(problem, threads=5)
    ext.force_isa("")
    for _ in range(200):
        for name, layer in layers.items():
            step(layer, problem)
            assert layer.isa == name


@pytest.mark.parametrize(
    "sizes",
    [
        Sizes(experts=4, tokens=1, top_k=3, rank=3),
        Sizes(experts=1, tokens=1, top_k=1, rank=0),
        Sizes(hidden=1, tokens=30),
        Sizes(inter=1, tokens=30),
        Sizes(experts=1, hidden=1, inter=1, top_k=1, rank=1),
    ],
    ids=str,
)
def test_sizes_of_one(isa, sizes):
    problem = make_problem(sizes, dtype=torch.float32, lora_dtype=torch.float32)
    # So few terms and results that roundings do not average out.
    assert_near(step(make_layer(problem), problem), reference(problem), 0.02, 0.04, 0.1)


@pytest.mark.parametrize("parts", [1, 2, 3], ids=lambda n: f"parts{n}")
@pytest.mark.parametrize("rank", [0, 5, 16], ids=lambda n: f"r{n}")
def test_parts(isa, parts, rank):
    # 51 columns of the intermediate size in each of three parts, 153 in one.
    problem = make_problem(Sizes(inter=306 if parts == 2 else 153, rank=rank))
    assert_near(step(make_layer(problem, parts=parts), problem), reference(problem))


@pytest.mark.parametrize("ids", [torch.int64, torch.int32], ids=str)
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=str)
def test_routing_dtypes(isa, ids, weights):
    problem = make_problem(Sizes())
    problem.ids, problem.weights = problem.ids.to(ids), problem.weights.to(weights)
    assert_near(step(make_layer(problem), problem), reference(problem))


@pytest.mark.parametrize("lora", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtypes(isa, dtype, lora):
    problem = make_problem(Sizes(), dtype=dtype, lora_dtype=lora)
    results = step(make_layer(problem), problem)
    assert_near(results, reference(problem))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_an_output_is_the_same_when_nothing_is_saved(isa, dtype):
    problem = make_problem(Sizes(), dtype=dtype)
    layer = make_layer(problem)
    saved, _ = forward(layer, problem)
    assert torch.equal(forward(layer, problem, save=False)[0], saved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_inputs_gradient_has_a_dtype_of_its_own(dtype):
    problem = make_problem(Sizes())
    layer = make_layer(problem)
    expected = step(layer, problem).grad_input
    forward(layer, problem)
    problem.grad_output = problem.grad_output.to(dtype)
    gradient, loras = unwritten(problem.x), [unwritten(t) for t in problem.loras]
    layer.backward(0, view(problem.grad_output), view(gradient), list(map(view, loras)))
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("part", ["experts", "loras", "x", "grad_output"])
def test_float32_is_rounded_to_bfloat16_once(isa, part):
    problem = make_problem(Sizes(), dtype=torch.float32, lora_dtype=torch.float32)

    def changed(tensor):
        return tensor.float() + 0.3 * torch.randn(tensor.shape).clamp(-3, 3)

    def rounded(tensor):
        return tensor.bfloat16().float()

    exact = getattr(problem, part)
    if part == "experts":
        exact = [tuple(map(changed, expert)) for expert in exact]
        bf16 = [tuple(map(rounded, expert)) for expert in exact]
    elif part == "loras":
        exact = list(map(changed, exact))
        bf16 = list(map(rounded, exact))
    else:
        exact = changed(exact)
        bf16 = rounded(exact)
    both = [dataclasses.replace(problem, **{part: values}) for values in (exact, bf16)]
    assert_same_bits(*(step(make_layer(p, parts=2), p) for p in both))


def test_no_tokens(isa):
    problem = make_problem(Sizes(tokens=0))
    layer = make_layer(problem)
    results = step(layer, problem)
    for gradient in results.grad_loras:
        assert not gradient.any()
    assert layer.cache_used == 0


def test_every_slot_masked(isa):
    problem = make_problem(Sizes())
    step(make_layer(problem), problem)
    problem.ids.fill_(-1)
    layer = make_layer(problem)
    for tensor in step(layer, problem).named().values():
        assert not tensor.any()
    assert layer.isa == ""  # no product ran, and that of another layer does not count


def test_masked_slots(isa):
    problem = make_problem(Sizes(tokens=40, top_k=3))
    problem.ids[torch.rand(problem.ids.shape) < 0.3] = -1
    problem.weights[problem.ids < 0] = torch.nan  # nobody reads them
    results = step(make_layer(problem), problem)
    assert not results.grad_weights[problem.ids < 0].any()
    problem.weights[problem.ids < 0] = 0.0
    assert_near(results, reference(problem))


def test_skipped_experts_are_masked_ids(isa):
    problem = make_problem(Sizes(tokens=40))
    skip = torch.tensor([False, True, False, True])
    problem.weights[skip[problem.ids]] = torch.nan  # nobody reads them
    results = step(make_layer(problem), problem, skip)
    problem.ids[skip[problem.ids]] = -1
    assert_same_bits(results, step(make_layer(problem), problem))


def test_an_expert_twice_in_a_row(isa):
    problem = make_problem(Sizes(tokens=20, top_k=4))
    problem.ids[:, 1] = problem.ids[:, 0]
    problem.ids[7] = 2
    assert_near(step(make_layer(problem), problem), reference(problem))


def test_every_expert_must_be_loaded():
    problem = make_problem(Sizes())
    layer = make_layer(dataclasses.replace(problem, experts=problem.experts[:3]))
    assert not layer.loaded
    with pytest.raises(RuntimeError, match="expert 3 is missing"):
        forward(layer, problem)
    layer.load_expert(3, *map(view, problem.experts[3]))
    assert layer.loaded
    assert_same_bits(step(layer, problem), step(make_layer(problem), problem))


def test_inputs_may_change_after_forward(isa):
    problem = make_problem(Sizes())
    expected = step(make_layer(problem), problem)
    layer = make_layer(problem)
    output, ticket = forward(layer, problem)
    for tensor in (problem.x, problem.ids, problem.weights):
        tensor.zero_()
    assert_same_bits(backward(layer, problem, output, ticket), expected)


def test_adapters_are_read_at_each_pass(isa):
    problem = make_problem(Sizes())
    layer = make_layer(problem)
    step(layer, problem)
    for tensor in problem.loras:
        tensor.mul_(-0.5)
    assert_same_bits(step(layer, problem), step(make_layer(problem), problem))


def test_an_output_may_lie_where_the_input_does(isa):
    problem = make_problem(Sizes(tokens=40))
    expected, _ = forward(make_layer(problem), problem, save=False)
    inputs = (view(t) for t in (problem.x, problem.ids, problem.weights, problem.x))
    make_layer(problem).forward(*inputs, False, None)
    assert torch.equal(problem.x, expected)
