"""The module as modules are used: optimizers, state, copies, what it refuses."""

import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from module_layer import EXPERT_WEIGHTS, expected, make_layer, run
from small_layer import (
    EXPERTS,
    FORWARD_LIMIT,
    HIDDEN,
    INTER,
    RANK,
    TOP_K,
)
from small_layer import (
    batch as make_batch,
)
from small_layer import (
    wrapper as make_wrapper,
)
from torch import nn

from kt_kernel import KTMoELayer
from kt_kernel.reference import compute_relative_error, lora_shapes, moe_reference


def test_an_optimizer_step_is_seen_by_the_next_forward():
    layer, batch = make_layer(), make_batch()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    before = run(layer, batch)
    before.backward(batch.grad_output)
    optimizer.step()
    after = run(layer, batch)
    assert not torch.equal(after, before)
    assert compute_relative_error(after, expected(layer, batch).output) < FORWARD_LIMIT


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_training_decreases_the_loss(dtype):
    batch = make_batch(32)
    target = run(make_layer(), batch).detach().float()
    layer = make_layer(dtype)
    layer.reset_parameters()
    optimizer = torch.optim.AdamW(layer.parameters(), lr=2e-2, weight_decay=0.0)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(run(layer, batch).float(), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_a_fresh_layer_is_its_frozen_experts():
    layer, batch = make_layer(), make_batch()
    layer.reset_parameters()
    bare = moe_reference(
        batch.hidden_states, batch.expert_ids, batch.weights, EXPERT_WEIGHTS, dtype=torch.float64
    )
    assert compute_relative_error(run(layer, batch), bare.output) < FORWARD_LIMIT
    for name, parameter in layer.named_parameters():
        if name.endswith("_b"):
            assert torch.all(parameter == 0)
        else:
            bound = parameter.shape[-1] ** -0.5
            assert parameter.abs().max() <= bound
            assert parameter.float().std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_state_dict_holds_the_adapters_alone_and_loads_either_way():
    source, batch = make_layer(), make_batch()
    state = source.state_dict()
    shapes = lora_shapes(EXPERTS, HIDDEN, INTER, RANK)
    assert {name: tuple(t.shape) for name, t in state.items()} == shapes
    for assign in (False, True):
        target = make_layer()
        target.reset_parameters()
        run(target, batch)  # the wrapper has seen the parameters that are about to go
        target.load_state_dict({n: t.clone() for n, t in state.items()}, assign=assign)
        assert torch.equal(run(target, batch), run(source, batch))


def test_train_and_eval_compute_the_same():
    layer, batch = make_layer(), make_batch()
    output = run(layer.train(), batch)
    assert torch.equal(run(layer.eval(), batch), output)
    assert not layer.training


def test_another_dtype_or_memory_of_the_parameters_is_followed():
    layer, batch = make_layer(), make_batch()
    output = run(layer, batch).detach()
    layer.share_memory()
    assert torch.equal(run(layer, batch), output)
    layer.float()
    run(layer, batch).backward(batch.grad_output)
    assert layer.up_lora_a.dtype == layer.up_lora_a.grad.dtype == torch.float32


def test_moves_that_the_layer_cannot_make_are_refused_and_change_nothing():
    layer, batch = make_layer(), make_batch()
    output = run(layer, batch)
    with pytest.raises(RuntimeError, match="computes on the CPU and cannot move to meta"):
        layer.to("meta")
    with pytest.raises(TypeError, match=r"bfloat16 or float32, they cannot be torch\.float16"):
        nn.Sequential(layer).half()
    with pytest.raises(TypeError, match=r"torch\.float64"):
        layer.to(torch.float64)
    assert layer.to("cpu") is layer
    assert torch.equal(run(layer, batch), output)


def test_the_default_device_does_not_matter():
    wrapper = make_layer().wrapper
    with torch.device("meta"):
        layer = KTMoELayer(wrapper)
        assert {parameter.device.type for parameter in layer.parameters()} == {"cpu"}
        assert layer.float() is layer


def test_threads_with_adapters_of_their_own_share_the_experts(monkeypatch):
    wrapper, batch = make_layer().wrapper, make_batch()
    layers = [KTMoELayer(wrapper) for _ in range(2)]
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.1)
    use = type(wrapper)._use_lora

    def slowly(self, tensors):
        use(self, tensors)
        time.sleep(0.005)  # for the other thread to come between

    def results(layer):
        layer.zero_grad()
        output = run(layer, batch)
        output.backward(batch.grad_output)
        return [output.detach(), *(parameter.grad for parameter in layer.parameters())]

    alone = list(map(results, layers))
    monkeypatch.setattr(type(wrapper), "_use_lora", slowly)
    with ThreadPoolExecutor(2) as threads:
        for _ in range(10):
            for found, wanted in zip(threads.map(results, layers), alone, strict=True):
                assert all(map(torch.equal, found, wanted))


def test_pickling_is_refused():
    with pytest.raises(TypeError, match=r"KTMoELayer cannot be pickled.*state_dict\(\)"):
        pickle.dumps(nn.Sequential(make_layer()))


def test_what_a_layer_cannot_be_made_of():
    wrapper = make_layer().wrapper
    with pytest.raises(TypeError, match=r"dtype: wanted .*, got torch\.float16"):
        KTMoELayer(wrapper, dtype=torch.float16)
    with pytest.raises(ValueError, match="wrapper: wanted an SFT method, got AMXBF16"):
        KTMoELayer(make_wrapper("AMXBF16"))


def test_repr_says_what_it_is():
    text = repr(make_layer())
    assert text == (
        f"KTMoELayer(AMXBF16_SFT, num_experts={EXPERTS}, num_experts_per_tok={TOP_K}, "
        f"hidden_size={HIDDEN}, moe_intermediate_size={INTER}, lora_rank={RANK}, lora_scaling=8)"
    )
