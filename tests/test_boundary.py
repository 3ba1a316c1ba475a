"""Every bad input: its exception, what the message names, and that nothing was lost by it."""

import dataclasses
import threading

import pytest
import torch
from small_layer import (
    EXPERTS,
    FORWARD_LIMIT,
    HIDDEN,
    QLEN,
    SFT,
    TOP_K,
    adapters,
    assert_gradients,
    assert_near,
    batch,
    freed,
    loaded,
    shrunk,
    stacked,
    strided,
    wrapper,
)

NAN, INF = float("nan"), float("inf")
LAST = rf"\[{QLEN - 1}, {TOP_K - 1}\]"


def put(value):
    def change(tensor):
        copy = tensor.clone()
        copy.view(-1)[-1] = value
        return copy

    return change


LAYOUT_FAULTS = [
    (lambda t: t.tolist(), TypeError, "wanted a torch.Tensor, got list"),
    (lambda t: None, TypeError, "wanted a torch.Tensor, got NoneType"),
    (lambda t: t.to("meta"), ValueError, "device cpu, got one on meta"),
    (lambda t: t.to_sparse(), ValueError, "dense"),
    (strided, ValueError, "contiguous"),
    (freed, ValueError, "freed"),
    (shrunk, ValueError, "freed or shrunk"),
    (lambda t: t[:, :-1].contiguous(), ValueError, "wanted shape"),
    (lambda t: t.unsqueeze(0), ValueError, "wanted"),
    (lambda t: t.flatten(), ValueError, "wanted"),
    (lambda t: t.double(), TypeError, "wanted dtype .* got torch.float64"),
    (lambda t: t.to(torch.complex64), TypeError, "got torch.complex64"),
]
ROW_FAULTS = [
    (lambda t: t[:-1], ValueError, "wanted shape"),
    (lambda t: torch.cat([t, t]), ValueError, "wanted shape"),
]
FORWARD_FAULTS = [
    *(("hidden_states", *fault) for fault in LAYOUT_FAULTS),
    *(("expert_ids", *fault) for fault in LAYOUT_FAULTS + ROW_FAULTS),
    *(("weights", *fault) for fault in LAYOUT_FAULTS + ROW_FAULTS),
    ("expert_ids", lambda t: t.to(torch.int16), TypeError, "int64 or int32, got torch.int16"),
    (
        "expert_ids",
        put(EXPERTS),
        ValueError,
        f"{LAST} is {EXPERTS}, wanted .* {EXPERTS - 1}$",
    ),
    ("expert_ids", put(-2), ValueError, f"{LAST} is -2, wanted"),
    ("expert_ids", put(2**40), ValueError, f"{2**40}"),
    ("expert_ids", put(-(2**63)), ValueError, f"{-(2**63)}"),
    ("weights", lambda t: t.half(), TypeError, "float32 or bfloat16, got torch.float16"),
    ("weights", put(NAN), ValueError, "nan"),
    ("weights", put(INF), ValueError, "inf"),
    ("weights", put(-INF), ValueError, "inf"),
    ("weights", lambda t: put(NAN)(t.bfloat16()), ValueError, "nan"),
]


@pytest.mark.parametrize(("name", "change", "error", "message"), FORWARD_FAULTS)
@pytest.mark.parametrize("method", [SFT, "BF16"])
def test_forward_refuses(method, name, change, error, message):
    small = loaded(method)
    before = small.forward(save=False)
    bad = dataclasses.replace(small.inputs, **{name: change(getattr(small.inputs, name))})
    with pytest.raises(error, match=rf"(?s)^{name}.*{message}"):
        small.forward(bad)
    assert torch.equal(small.forward(save=True), before)  # no cache slot was taken


def test_a_nan_in_a_skipped_slot_is_nobodys_business():
    small = loaded()
    small.inputs.expert_ids[3, 1] = -1
    expected = small.reference().output
    small.inputs.weights[3, 1] = NAN
    assert_near(small.forward(), expected, FORWARD_LIMIT)


GRAD_OUTPUT_FAULTS = [
    *LAYOUT_FAULTS,
    *ROW_FAULTS,
    (lambda t: t[:1].expand(QLEN, HIDDEN), ValueError, "contiguous"),
]


@pytest.mark.parametrize(("change", "error", "message"), GRAD_OUTPUT_FAULTS)
def test_backward_refuses(change, error, message):
    small = loaded()
    small.forward()
    with pytest.raises(error, match=rf"(?s)^grad_output.*{message}"):
        small.layer.backward(change(small.inputs.grad_output))
    gradients = small.layer.backward(small.inputs.grad_output)  # the saved forward is still there
    assert_gradients(gradients, small.reference())


def test_after_a_refused_backward_the_newest_is_still_the_newest():
    small = loaded(max_cache_depth=2)
    first, second = batch(seed=1), batch(seed=2)
    small.forward(first)
    small.forward(second)
    with pytest.raises(ValueError, match="grad_output"):
        small.layer.backward(second.grad_output[:2])
    assert_gradients(small.layer.backward(second.grad_output), small.reference(second))
    assert_gradients(small.layer.backward(first.grad_output), small.reference(first))


# ---- calls out of order ----


def test_forward_before_weights():
    layer = wrapper()
    layer.init_lora_weights(*adapters().values())
    inputs = batch()
    with pytest.raises(RuntimeError, match="weights are not loaded: call load_weights"):
        layer.forward_sft(inputs.hidden_states, inputs.expert_ids, inputs.weights)


def test_forward_before_adapters():
    layer = wrapper()
    layer.load_weights_from_tensors(*stacked())
    inputs = batch()
    with pytest.raises(RuntimeError, match="LoRA tensors are not set: call init_lora_weights"):
        layer.forward_sft(inputs.hidden_states, inputs.expert_ids, inputs.weights)
    with pytest.raises(RuntimeError, match="LoRA tensors are not set"):
        layer.update_lora_weights()


def test_backward_without_forward():
    small = loaded()
    with pytest.raises(RuntimeError, match="backward: no forward is saved"):
        small.layer.backward(small.inputs.grad_output)
    small.forward(save=False)
    with pytest.raises(RuntimeError, match="backward: no forward is saved"):
        small.layer.backward(small.inputs.grad_output)
    small.forward()
    small.layer.backward(small.inputs.grad_output)
    with pytest.raises(RuntimeError, match="backward: no forward is saved"):
        small.layer.backward(small.inputs.grad_output)


def test_loading_twice():
    small = loaded()
    before = small.forward(save=False)
    with pytest.raises(RuntimeError, match="loaded already"):
        small.layer.load_weights_from_tensors(*stacked(seed=1))
    assert torch.equal(small.forward(), before)


def test_calls_of_the_other_mode():
    inputs = batch()
    arguments = inputs.hidden_states, inputs.expert_ids, inputs.weights
    layer = loaded("BF16").layer
    loras = adapters().values()
    for call in (
        lambda: layer.forward_sft(*arguments),
        lambda: layer.backward(inputs.grad_output),
        lambda: layer.init_lora_weights(*loras),
        lambda: layer.update_lora_weights(),
    ):
        with pytest.raises(RuntimeError, match="BF16 is an inference method"):
            call()
    with pytest.raises(RuntimeError, match=f"{SFT} is no inference method, call forward_sft"):
        loaded().layer.forward(*arguments)


def test_a_closed_layer():
    small = loaded()
    small.forward()
    inputs = small.inputs
    small.layer.close()
    for call in (
        lambda: small.forward(),
        lambda: small.layer.backward(inputs.grad_output),
        lambda: small.layer._backward_ticket(1, inputs.grad_output, False),
        lambda: small.layer.init_lora_weights(*small.loras.values()),
        lambda: small.layer.update_lora_weights(),
        lambda: small.layer.load_weights_from_tensors(*stacked()),
    ):
        with pytest.raises(RuntimeError, match="this layer was closed"):
            call()
    small.layer._release(1)


def test_closing_while_another_thread_computes():
    small = loaded(cpuinfer_threads=2)
    expected = small.forward(save=False)
    outcomes = []

    def work():
        try:
            while True:
                outcomes.append(torch.equal(small.forward(save=False), expected))
        except RuntimeError as error:
            outcomes.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    while not outcomes:
        pass
    small.layer.close()
    thread.join()
    *equal, last = outcomes
    assert all(equal)
    assert last.startswith("this layer was closed")
