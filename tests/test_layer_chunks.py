"""How a layer cuts its work changes nothing."""

import pytest
import torch
from native_layer import Sizes, make_layer, make_problem, reference, step
from test_layer_native import assert_near


@pytest.mark.parametrize("chunk", [1, 7, 39, 40], ids=lambda n: f"chunk{n}")
@pytest.mark.parametrize("parts", [1, 2], ids=lambda n: f"parts{n}")
def test_chunks_change_nothing(isa, chunk, parts):
    problem = make_problem(Sizes(tokens=40), dtype=torch.float32, lora_dtype=torch.float32)
    whole = step(make_layer(problem, parts=parts), problem).named()
    chunked = step(make_layer(problem, parts=parts, chunk_tokens=chunk), problem).named()
    for name, expected in whole.items():
        difference = (chunked[name] - expected).abs().mean()
        assert difference < 1e-5 * expected.abs().mean(), name


def test_an_expert_of_more_rows_and_columns_than_a_task_has(isa):
    problem = make_problem(Sizes(experts=2, hidden=530, inter=300, top_k=1, tokens=600))
    problem.ids.fill_(1)
    assert_near(step(make_layer(problem), problem), reference(problem))


def test_few_rows_of_many_columns(isa):
    """More than the backward pass keeps products of, or a task has buffers for."""
    wide = make_problem(Sizes(experts=16, hidden=4700, inter=24, top_k=16, tokens=16))
    wide.ids[:] = torch.arange(16)
    assert_near(step(make_layer(wide, parts=2), wide), reference(wide))
    long = make_problem(Sizes(experts=2, hidden=24, inter=4200, top_k=1, tokens=5))
    assert_near(step(make_layer(long), long), reference(long))
