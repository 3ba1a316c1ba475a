"""The autograd function: gradients against the float64 reference, and the life of what a graph
saves."""

import copy

import pytest
import torch
from module_layer import (
    IDLE,
    expected,
    gradients,
    leaves,
    make_layer,
    run,
    slots_in_use,
)
from small_layer import (
    EXPERTS,
    FORWARD_LIMIT,
    GRADIENT_LIMIT,
    HIDDEN,
    INTER,
    RANK,
    TOP_K,
)
from small_layer import (
    batch as make_batch,
)
from torch import nn
from torch.utils.checkpoint import checkpoint

from kt_kernel.reference import LORA_NAMES, compute_relative_error
from kt_kernel.synthetic import make_loras


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("activations", [torch.bfloat16, torch.float32])
def test_output_and_every_gradient_agree_with_the_float64_reference(dtype, activations):
    layer, batch = make_layer(dtype), make_batch(dtype=activations)
    batch.expert_ids[0, :2] = 1  # a token that names an expert twice
    batch.expert_ids[1] = -1  # a token without experts
    batch.expert_ids[batch.expert_ids == IDLE] = -1  # an expert without tokens
    hidden, weights = leaves(batch)
    output = layer(hidden, batch.expert_ids, weights)
    output.backward(batch.grad_output)
    truth = expected(layer, batch)
    assert output.dtype == hidden.grad.dtype == activations
    assert compute_relative_error(output, truth.output) < FORWARD_LIMIT
    assert compute_relative_error(hidden.grad, truth.grad_input) < GRADIENT_LIMIT
    assert compute_relative_error(weights.grad, truth.grad_weights) < GRADIENT_LIMIT
    for name, grad in gradients(layer).items():
        assert grad.dtype == dtype
        error = compute_relative_error(grad, truth.grad_loras[f"grad_{name}"])
        assert error < GRADIENT_LIMIT, name
        assert torch.all(grad[IDLE] == 0), name


def test_routing_weights_may_be_bf16():
    layer, batch = make_layer(), make_batch()
    weights = batch.weights.to(torch.bfloat16).requires_grad_()
    layer(batch.hidden_states, batch.expert_ids, weights).backward(batch.grad_output)
    assert weights.grad.dtype == torch.bfloat16
    assert compute_relative_error(weights.grad, expected(layer, batch).grad_weights) < 0.02


def test_batch_dimensions_and_strides_of_the_caller_are_kept():
    layer, batch = make_layer(), make_batch(12)
    flat = run(layer, batch)
    shaped = layer(
        batch.hidden_states.view(3, 4, HIDDEN),
        batch.expert_ids.view(3, 4, TOP_K),
        batch.weights.view(3, 4, TOP_K),
    )
    assert shaped.shape == (3, 4, HIDDEN)
    assert torch.equal(shaped.view(12, HIDDEN), flat)
    columns = batch.hidden_states.T.contiguous().T
    assert not columns.is_contiguous()
    assert torch.equal(layer(columns, batch.expert_ids, batch.weights), flat)
    flat.sum().backward()  # an expanded gradient, whose strides are zero
    ones = gradients(layer)["up_lora_a"].clone()
    layer.zero_grad()
    run(layer, batch).backward(torch.ones(12, HIDDEN, dtype=torch.bfloat16))
    assert torch.equal(gradients(layer)["up_lora_a"], ones)


def test_what_is_no_matrix_is_refused_by_name():
    layer, batch = make_layer(), make_batch(4)
    with pytest.raises(TypeError, match=r"weights: wanted a torch\.Tensor, got NoneType"):
        layer(batch.hidden_states, batch.expert_ids, None)
    with pytest.raises(ValueError, match="hidden_states: wanted 2 dimensions"):
        layer(batch.hidden_states[0], batch.expert_ids, batch.weights)
    with pytest.raises(ValueError, match="expert_ids: wanted shape"):
        layer(batch.hidden_states, batch.expert_ids[:, :0], batch.weights)


def test_no_tokens():
    layer, batch = make_layer(), make_batch(0)
    run(layer, batch).sum().backward()
    assert all(torch.all(grad == 0) for grad in gradients(layer).values())


def test_micro_batches_accumulate_to_the_large_batch():
    batch = make_batch(12)
    whole, parts = make_layer(torch.float32), make_layer(torch.float32)
    run(whole, batch).backward(batch.grad_output)
    for i in range(0, 12, 4):
        part = type(batch)(*(field[i : i + 4] for field in vars(batch).values()))
        run(parts, part).backward(part.grad_output)
    for name, grad in gradients(parts).items():
        torch.testing.assert_close(grad, gradients(whole)[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_backwards_come_in_any_order(order):
    batches = [make_batch(8, seed) for seed in range(3)]
    waiting, alone = make_layer(depth=3), make_layer(depth=1)
    inputs = [leaves(batch) for batch in batches]
    outputs = [
        waiting(hidden, batch.expert_ids, weights)
        for batch, (hidden, weights) in zip(batches, inputs, strict=True)
    ]
    assert slots_in_use(waiting) == 3
    for i in order:
        outputs[i].backward(batches[i].grad_output)
        hidden, weights = leaves(batches[i])
        alone(hidden, batches[i].expert_ids, weights).backward(batches[i].grad_output)
        assert torch.equal(inputs[i][0].grad, hidden.grad)
        assert torch.equal(inputs[i][1].grad, weights.grad)
        for name, grad in gradients(waiting).items():
            assert torch.equal(grad, gradients(alone)[name])
    assert slots_in_use(waiting) == 0


def test_one_forward_too_many():
    layer, batch = make_layer(depth=1), make_batch()
    output = run(layer, batch)
    with pytest.raises(RuntimeError, match=r"^Forward cache full"):
        run(layer, batch)
    output.backward(batch.grad_output)
    run(layer, batch)


def test_a_dropped_graph_gives_its_slot_back():
    layer, batch = make_layer(depth=1), make_batch()
    for _ in range(3):
        output = run(layer, batch)
        assert slots_in_use(layer) == 1
        del output
        assert slots_in_use(layer) == 0


def test_a_forward_that_nobody_differentiates_takes_no_slot():
    layer, batch = make_layer(depth=1), make_batch()
    waiting = run(layer, batch)  # holds the only slot
    with torch.no_grad():
        outputs = [run(layer, batch)]
    layer.requires_grad_(False)
    outputs.append(run(layer, batch))
    assert not any(output.requires_grad for output in outputs)
    assert slots_in_use(layer) == 1
    waiting.backward(batch.grad_output)


def test_backward_twice_is_refused():
    layer, batch = make_layer(), make_batch()
    output = run(layer, batch)
    output.backward(batch.grad_output, retain_graph=True)
    with pytest.raises(RuntimeError, match="backward a second time through the same forward"):
        output.backward(batch.grad_output)
    output = run(layer, batch)
    output.backward(batch.grad_output)
    with pytest.raises(RuntimeError, match="second time"):
        output.backward(batch.grad_output)


def test_gradients_of_gradients_are_refused():
    layer, batch = make_layer(), make_batch()
    hidden, _ = leaves(batch)
    output = layer(hidden, batch.expert_ids, batch.weights)
    with pytest.raises(RuntimeError, match="gradients of the layer's gradients"):
        torch.autograd.grad(output.sum(), hidden, create_graph=True)
    output.backward(batch.grad_output)


def test_an_adapter_changed_between_forward_and_backward_is_noticed():
    layer, batch = make_layer(), make_batch()
    output = run(layer, batch)
    with torch.no_grad():
        layer.up_lora_b.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward(batch.grad_output)


def test_a_deep_copy_has_adapters_of_its_own_over_the_same_experts():
    policy, batch = make_layer(depth=2), make_batch()
    block = copy.deepcopy(nn.Sequential(policy))
    other = block[0]
    assert other.wrapper is policy.wrapper
    other.load_state_dict(make_loras(EXPERTS, HIDDEN, INTER, RANK, seed=5))
    outputs = [run(layer, batch) for layer in (policy, other)]
    for layer, output in zip((policy, other), outputs, strict=True):
        truth = expected(layer, batch)
        assert compute_relative_error(output, truth.output) < FORWARD_LIMIT
        output.backward(batch.grad_output)
        for name, grad in gradients(layer).items():
            assert compute_relative_error(grad, truth.grad_loras[f"grad_{name}"]) < GRADIENT_LIMIT
    assert compute_relative_error(*outputs) > 0.05


def test_inputs_may_change_between_forward_and_backward():
    layer, batch = make_layer(), make_batch()
    truth = expected(layer, batch)
    hidden = batch.hidden_states.clone()
    output = layer(hidden, batch.expert_ids, batch.weights)
    hidden.zero_()
    batch.weights.zero_()
    batch.expert_ids.zero_()
    output.backward(batch.grad_output)
    for name, grad in gradients(layer).items():
        assert compute_relative_error(grad, truth.grad_loras[f"grad_{name}"]) < GRADIENT_LIMIT


def test_a_frozen_subset_gets_no_gradient_and_changes_no_other():
    full, part, batch = make_layer(), make_layer(), make_batch()
    frozen = ("gate_lora_a", "down_lora_b")
    for name in frozen:
        getattr(part, name).requires_grad_(False)
    for layer in (full, part):
        run(layer, batch).backward(batch.grad_output)
    for name in LORA_NAMES:
        if name in frozen:
            assert getattr(part, name).grad is None
        else:
            assert torch.equal(getattr(part, name).grad, getattr(full, name).grad)


class Block(nn.Module):
    """A residual layer between two linear ones, as a transformer has it."""

    def __init__(self, layer):
        super().__init__()
        torch.manual_seed(0)
        self.layer = layer
        self.router = nn.Linear(HIDDEN, EXPERTS)
        self.head = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, hidden):
        weights, ids = torch.topk(torch.softmax(self.router(hidden), -1), TOP_K)
        return self.head(hidden + self.layer(hidden, ids, weights))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_no_bit_and_holds_no_slot(reentrant):
    hidden = make_batch(dtype=torch.float32).hidden_states
    results = []
    for checkpointed in (False, True):
        block = Block(make_layer(depth=1))
        x = hidden.clone().requires_grad_()
        output = checkpoint(block, x, use_reentrant=reentrant) if checkpointed else block(x)
        assert slots_in_use(block.layer) == (0 if checkpointed else 1)
        output.square().sum().backward()
        assert slots_in_use(block.layer) == 0
        results.append([output, x.grad, *(p.grad for p in block.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_two_checkpointed_passes_through_one_layer_of_depth_one():
    block, hidden = Block(make_layer(depth=1)), make_batch(dtype=torch.float32).hidden_states
    outputs = [checkpoint(block, hidden * scale, use_reentrant=False) for scale in (1, 2)]
    (outputs[0] + outputs[1]).sum().backward()
    assert slots_in_use(block.layer) == 0
    assert all(torch.any(p.grad != 0) for p in block.layer.parameters())


def test_a_hook_that_copies_what_the_graph_saves_is_refused_at_backward():
    layer, batch = make_layer(), make_batch()
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda saved: saved):
        output = run(layer, batch)
    with pytest.raises(RuntimeError, match="a saved-tensors hook put copies"):
        output.backward(batch.grad_output)


def test_save_on_cpu_copies_nothing_here_and_works():
    layer, batch = make_layer(), make_batch()
    with torch.autograd.graph.save_on_cpu():
        output = run(layer, batch)
    output.backward(batch.grad_output)
    grad = gradients(layer)["gate_lora_a"]
    truth = expected(layer, batch).grad_loras["grad_gate_lora_a"]
    assert compute_relative_error(grad, truth) < GRADIENT_LIMIT
