"""The native layer with weights of integer codes, end to end, against float64 PyTorch on the very
weights that it holds, so that what is left is the rounding of activations."""

import dataclasses

import pytest
import torch
from integer_model import FORMATS
from native_layer import Sizes, make_layer, make_problem, reference, step
from test_layer_native import assert_near, assert_same_bits

# docs/rounding.md has what a rounding costs: 0.6% for X and dOut, 0.9% for H, 1.1% for dG and dU,
# 0.7% for the weights along n where groups have scales. They are independent and add up as squares.
# The output has those of X twice (in G and U) and H's: 1.2%. The input's gradient has those of G
# and U, of dOut, of dG or dU, and of the weights twice: 1.9%. The rest is that means of few numbers
# vary.
OUTPUT, GRADIENT, WORST = 0.02, 0.025, 0.4

formats = pytest.mark.parametrize("form", FORMATS, ids=str)


def made(form, problem, **options):
    return make_layer(problem, format=form.name, group_size=form.group or 128, **options)


def held(form, isa, problem, parts=1):
    """The problem with the weights that the layer's parts hold."""

    def roundtrip(weights):
        return torch.from_numpy(form.roundtrip(isa, weights.float().numpy()))

    def expert(gate, up, down):
        # A row of `down` has a scale in each part.
        pieces = [roundtrip(piece.contiguous()) for piece in down.chunk(parts, dim=1)]
        return roundtrip(gate), roundtrip(up), torch.cat(pieces, dim=1)

    return dataclasses.replace(problem, experts=[expert(*each) for each in problem.experts])


def fitted(form, sizes, parts=1):
    """The sizes with widths of whole groups."""
    hidden, inter = form.columns([sizes.hidden])[0], sizes.inter
    if form.group:
        inter = form.columns([-(-inter // parts)])[0] * parts
    return dataclasses.replace(sizes, hidden=hidden, inter=inter)


def check(form, isa, problem, parts=1, **options):
    layer = made(form, problem, parts=parts, **options)
    results = step(layer, problem)
    assert layer.isa == isa
    expected = reference(held(form, isa, problem, parts))
    assert_near(results, expected, OUTPUT, GRADIENT, WORST)
    return results


@formats
@pytest.mark.parametrize(
    "sizes",
    [
        Sizes(),
        Sizes(experts=5, hidden=33, inter=17, top_k=3, tokens=11, rank=1),
        Sizes(experts=8, hidden=256, inter=192, top_k=4, tokens=40, rank=16),
        Sizes(experts=3, hidden=272, inter=304, top_k=2, tokens=13, rank=100),
        Sizes(experts=4, hidden=300, inter=250, top_k=2, tokens=20, rank=0),
        Sizes(experts=9, hidden=31, inter=600, top_k=2, tokens=2, rank=16),  # some without tokens
        Sizes(experts=2, hidden=47, inter=63, top_k=1, tokens=550, rank=16),  # more than 256 each
        Sizes(experts=6, hidden=130, inter=70, top_k=6, tokens=1, rank=5),
    ],
    ids=str,
)
def test_gradients_are_those_of_autograd(isa, form, sizes):
    check(form, isa, make_problem(fitted(form, sizes)))


@formats
@pytest.mark.parametrize("parts", [1, 2, 4], ids=lambda n: f"parts{n}")
def test_parts(isa, form, parts):
    sizes = fitted(form, Sizes(hidden=70, inter=204, rank=16), parts)
    check(form, isa, make_problem(sizes), parts)


@formats
def test_no_tokens(isa, form):
    problem = make_problem(fitted(form, Sizes(tokens=0)))
    for gradient in step(made(form, problem), problem).grad_loras:
        assert not gradient.any()


@formats
def test_masked_slots_and_experts_twice_in_a_row(isa, form):
    problem = make_problem(fitted(form, Sizes(tokens=40, top_k=3)))
    problem.ids[
        torch.rand(problem.ids.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    ] = -1
    problem.ids[::5, 1] = problem.ids[::5, 0]
    results = check(form, isa, problem)
    assert not results.grad_weights[problem.ids < 0].any()


@formats
def test_every_slot_masked(isa, form):
    problem = make_problem(fitted(form, Sizes()))
    problem.ids.fill_(-1)
    for tensor in step(made(form, problem), problem).named().values():
        assert not tensor.any()


@formats
@pytest.mark.parametrize("chunk", [1, 7, 39, 100], ids=lambda n: f"chunk{n}")
def test_chunks_change_nothing(isa, form, chunk):
    """As long as no expert's rows are rounded in one of the two and not in the other: at most as
    many tokens as are rounded, or every token to every expert, more than that in each chunk."""
    few = Sizes(tokens=min(40, *(form.rounded_rows(isa, axis) for axis in "kn")))
    many = Sizes(experts=2, top_k=2, tokens=300)
    problem = make_problem(fitted(form, few if chunk < 40 else many), dtype=torch.float32)
    chunk = min(chunk, problem.sizes.tokens - 1)
    whole = step(made(form, problem), problem).named()
    chunked = step(made(form, problem, chunk_tokens=chunk), problem).named()
    for name, expected in whole.items():
        # Rows are rounded each by itself; only the order of some sums differs.
        difference = (chunked[name].double() - expected.double()).abs().mean()
        assert difference < 2e-3 * expected.double().abs().mean(), name


@formats
def test_threads_change_no_bit_of_weights_or_results(isa, form):
    sizes = fitted(form, Sizes(experts=3, hidden=300, inter=540, tokens=40, rank=16), parts=2)
    problem = make_problem(sizes)
    expected = step(made(form, problem, parts=2, threads=1), problem)
    for threads in (2, 5):
        assert_same_bits(step(made(form, problem, parts=2, threads=threads), problem), expected)
