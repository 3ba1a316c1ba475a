"""The native layer's cache: what a forward pass leaves for its backward, in any order."""

import threading

import pytest
from native_layer import Sizes, backward, forward, make_layer, make_problem, step, unwritten, view
from test_layer_native import assert_same_bits
from test_layer_process import BUSY, in_threads, resident_bytes


def test_slots_serve_backward_in_any_order(isa):
    problems = [make_problem(Sizes(tokens=n), seed=n) for n in (9, 1, 0, 30)]
    for other in problems[1:]:
        other.experts, other.loras = problems[0].experts, problems[0].loras
    alone = [step(make_layer(p), p) for p in problems]
    layer = make_layer(problems[0], cache_depth=4)
    for order in ([2, 0, 3, 1], [0, 1, 2, 3]):
        forwards = [forward(layer, p) for p in problems]
        assert len({ticket for _, ticket in forwards}) == layer.cache_used == 4
        for left, i in enumerate(order):
            output, ticket = forwards[i]
            assert layer.saved_tokens(ticket) == problems[i].sizes.tokens
            assert_same_bits(backward(layer, problems[i], output, ticket), alone[i])
            assert layer.cache_used == 3 - left


def test_a_slot_serves_shorter_inputs_after_longer(isa):
    """It keeps the memory of chunks that it no longer has."""
    longest = make_problem(Sizes(tokens=20))
    layer = make_layer(longest, chunk_tokens=7)
    for tokens in (20, 5, 0):
        problem = make_problem(Sizes(tokens=tokens), seed=tokens)
        problem.experts, problem.loras = longest.experts, longest.loras
        assert_same_bits(step(layer, problem), step(make_layer(problem, chunk_tokens=7), problem))


def test_ticket_zero_is_the_newest(isa):
    problem, other = make_problem(Sizes()), make_problem(Sizes(tokens=5), seed=1)
    other.experts, other.loras = problem.experts, problem.loras
    layer = make_layer(problem, cache_depth=2)
    forward(layer, other)
    output, _ = forward(layer, problem)
    assert layer.saved_tokens() == 9
    assert_same_bits(backward(layer, problem, output, 0), step(make_layer(problem), problem))
    assert layer.saved_tokens() == 5


def test_a_full_cache_refuses_and_loses_nothing(isa):
    problem = make_problem(Sizes())
    layer = make_layer(problem, cache_depth=2)
    (output, first), _ = forward(layer, problem), forward(layer, problem)
    with pytest.raises(RuntimeError, match=r"^Forward cache full"):
        forward(layer, problem)
    assert forward(layer, problem, save=False)[1] == 0  # needs no slot
    assert_same_bits(backward(layer, problem, output, first), step(make_layer(problem), problem))
    forward(layer, problem)
    assert layer.cache_used == 2


def test_a_ticket_may_be_had_before_the_forward():
    problem = make_problem(Sizes())
    layer = make_layer(problem, cache_depth=2)
    output, first = forward(layer, problem)
    ticket = layer.next_ticket()
    inputs = [view(t) for t in (problem.x, problem.ids, problem.weights, output)]
    layer.release(ticket)  # nothing is saved under it yet, which is no error
    assert layer.forward(*inputs, True, None, ticket) == ticket
    assert ticket not in (0, first)
    assert layer.saved_tokens() == layer.saved_tokens(ticket) == 9
    for taken in (ticket, first, -1):
        with pytest.raises(ValueError, match=f"ticket is {taken}, wanted 0"):
            layer.forward(*inputs, True, None, taken)
    layer.release(ticket)
    assert layer.cache_used == 1


def test_release(isa):
    problem = make_problem(Sizes())
    layer = make_layer(problem, cache_depth=3)
    first, second, third = (forward(layer, problem)[1] for _ in range(3))
    layer.release(second)
    layer.release(second)  # gone already
    assert layer.cache_used == 2
    with pytest.raises(RuntimeError):
        layer.saved_tokens(second)
    assert layer.saved_tokens(first) == layer.saved_tokens(third) == 9
    layer.release()
    assert layer.cache_used == 0
    with pytest.raises(RuntimeError, match="without a saved forward"):
        backward(layer, problem, unwritten(problem.x), 0)


def test_a_slot_serves_one_backward(isa):
    problem = make_problem(Sizes())
    layer = make_layer(problem)
    output, ticket = forward(layer, problem)
    backward(layer, problem, output, ticket)
    for gone in (ticket, 0):
        with pytest.raises(RuntimeError, match="without a saved forward"):
            backward(layer, problem, output, gone)


def test_two_threads_cannot_use_a_slot_twice():
    problem = make_problem(BUSY)
    layer = make_layer(problem, threads=2)
    expected = step(layer, problem)
    for _ in range(20):
        output, ticket = forward(layer, problem)
        refused = []
        start = threading.Barrier(2)

        def use(output=output, ticket=ticket, refused=refused, start=start):
            start.wait()
            try:
                assert_same_bits(backward(layer, problem, output, ticket), expected)
            except RuntimeError as error:
                refused.append(str(error))

        in_threads(use, use)
        assert len(refused) == 1
        assert "without a saved forward" in refused[0]


def test_a_slot_used_often_stays_as_it_is():
    problem = make_problem(Sizes(experts=1, hidden=1, inter=1, top_k=1, tokens=1, rank=0))
    layer = make_layer(problem, threads=1)
    output = unwritten(problem.x)
    inputs = [view(t) for t in (problem.x, problem.ids, problem.weights, output)]

    def steps(count):
        for _ in range(count):
            layer.forward(*inputs, True)
            layer.release()

    steps(1000)
    before = resident_bytes()
    steps(30000)
    assert resident_bytes() - before < 1 << 20
