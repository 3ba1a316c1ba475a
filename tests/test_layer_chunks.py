"""How a layer cuts its work and in which types it takes and gives it changes nothing."""

import pytest
import torch
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
from test_layer_native import assert_near, assert_same_bits


@pytest.mark.parametrize("chunk", [1, 7, 39, 40], ids=lambda n: f"chunk{n}")
@pytest.mark.parametrize("parts", [1, 2], ids=lambda n: f"parts{n}")
def test_chunks_change_nothing(isa, chunk, parts):
    problem = make_problem(Sizes(tokens=40), dtype=torch.float32, lora_dtype=torch.float32)
    whole = step(make_layer(problem, parts=parts), problem).named()
    chunked = step(make_layer(problem, parts=parts, chunk_tokens=chunk), problem).named()
    for name, expected in whole.items():
        difference = (chunked[name] - expected).abs().mean()
        assert difference < 1e-5 * expected.abs().mean(), name


def test_a_slot_forgets_the_chunks_of_a_longer_pass(isa):
    long, short = make_problem(Sizes(tokens=40)), make_problem(Sizes(tokens=5), seed=1)
    short.experts, short.loras = long.experts, long.loras
    layer = make_layer(long, chunk_tokens=7)
    step(layer, long)
    assert_same_bits(step(layer, short), step(make_layer(short, chunk_tokens=7), short))


def test_an_expert_of_more_rows_and_columns_than_a_task_has(isa):
    problem = make_problem(Sizes(experts=2, hidden=530, inter=300, top_k=1, tokens=600))
    problem.ids.fill_(1)
    assert_near(step(make_layer(problem), problem), reference(problem))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_inputs_of_any_type_are_those_of_bfloat16(isa, dtype):
    """But for the output's rounding, and what float16 has no small exponents for."""
    problem, other = make_problem(Sizes()), make_problem(Sizes(), dtype=dtype)
    expected, _ = forward(make_layer(problem), problem, save=False)
    output, _ = forward(make_layer(other), other, save=False)
    difference = (output.float() - expected.float()).abs().mean()
    assert difference < 5e-3 * expected.float().abs().mean()


def test_the_gradient_of_the_input_has_its_own_type(isa):
    problem = make_problem(Sizes())
    layer = make_layer(problem)
    expected = step(layer, problem)
    _, ticket = forward(layer, problem)
    grad_input = unwritten(problem.x, torch.float32)
    loras = [unwritten(t) for t in problem.loras]
    layer.backward(
        ticket, view(problem.grad_output), view(grad_input), [view(t) for t in loras], None
    )
    assert torch.equal(grad_input.bfloat16(), expected.grad_input)
    assert not torch.equal(grad_input, expected.grad_input.float())  # it has more digits


def test_a_slot_that_was_not_saved_to_is_free(isa):
    problem = make_problem(Sizes())
    layer = make_layer(problem)
    output, ticket = forward(layer, problem, save=False)
    assert (ticket, layer.cache_used) == (0, 0)
    with pytest.raises(RuntimeError, match="without a saved forward"):
        backward(layer, problem, output, 0)
