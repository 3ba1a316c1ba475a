"""What `KTMoEWrapper` computes, and what it asks of the native layer."""

import dataclasses
import os

import pytest
import torch
from small_layer import (
    EXPERTS,
    FORWARD_LIMIT,
    GRADIENT_LIMIT,
    HIDDEN,
    INTER,
    QLEN,
    RANK,
    SFT,
    TOP_K,
    assert_gradients,
    assert_near,
    batch,
    loaded,
    wrapper,
)
from torch.utils._python_dispatch import TorchDispatchMode

from kt_kernel import KTMoEWrapper, experts
from kt_kernel.reference import moe_reference
from kt_kernel.synthetic import SyntheticExperts, make_inputs, make_loras

BF16, F32, F16 = torch.bfloat16, torch.float32, torch.float16


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("lora_dtype", [BF16, F32])
@pytest.mark.parametrize("dtype", [BF16, F32, F16])
def test_forward_and_backward_against_the_reference(dtype, lora_dtype, parts):
    small = loaded(lora_dtype=lora_dtype, threadpool_count=parts)
    inputs = batch(dtype=dtype)
    output = small.forward(inputs)
    gradients = small.layer.backward(inputs.grad_output, routing_weights_grad=True)
    expected = small.reference(inputs)
    assert output.dtype == gradients[0].dtype == dtype
    assert {gradient.dtype for gradient in gradients[1].values()} == {lora_dtype}
    assert gradients[2].dtype == F32
    assert_near(output, expected.output, FORWARD_LIMIT)
    assert_gradients(gradients, expected)


@pytest.mark.parametrize("ids_dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("routing_dtype", [F32, BF16])
def test_dtypes_of_the_routing(ids_dtype, routing_dtype):
    small = loaded()
    inputs = dataclasses.replace(
        small.inputs,
        expert_ids=small.inputs.expert_ids.to(ids_dtype),
        weights=small.inputs.weights.to(routing_dtype),
    )
    assert_near(small.forward(inputs), small.reference(inputs).output, FORWARD_LIMIT)
    assert_gradients(small.layer.backward(inputs.grad_output), small.reference(inputs))


def test_values_that_bfloat16_cannot_hold():
    """Rounding of inputs and of adapters to bfloat16 comes on top, 0.14% each."""
    small = loaded()
    small.loras = make_loras(EXPERTS, HIDDEN, INTER, RANK, dtype=F32)
    small.layer.init_lora_weights(*small.loras.values())
    inputs = make_inputs(QLEN, EXPERTS, TOP_K, HIDDEN, dtype=F32)
    assert_near(small.forward(inputs), small.reference(inputs).output, 0.005)
    gradients = small.layer.backward(inputs.grad_output, routing_weights_grad=True)
    assert_gradients(gradients, small.reference(inputs), 0.007)


def test_weights_in_float32():
    small = loaded(weight_dtype=F32)
    assert_near(small.forward(), small.reference().output, FORWARD_LIMIT)
    assert_gradients(small.layer.backward(small.inputs.grad_output), small.reference())


def test_the_dtype_of_grad_output_need_not_be_that_of_the_input():
    small = loaded()
    small.forward()
    grad_input, _ = small.layer.backward(small.inputs.grad_output.float())
    assert grad_input.dtype == F32
    assert_near(grad_input, small.reference().grad_input, GRADIENT_LIMIT)


@pytest.mark.parametrize("qlen", [0, 1, 2, 50])
def test_any_number_of_tokens(qlen):
    """Many batches are judged together: the error of a single token is too much of a chance."""
    small = loaded()
    ours, theirs = [], []
    for seed in range(20):
        inputs = batch(qlen, seed=seed)
        output = small.forward(inputs)
        grad_input, loras, grad_weights = small.layer.backward(inputs.grad_output, True)
        assert output.shape == grad_input.shape == (qlen, HIDDEN)
        assert grad_weights.shape == (qlen, TOP_K)
        expected = small.reference(inputs)
        ours.append([output, grad_input, grad_weights, *loras.values()])
        theirs.append([expected.output, expected.grad_input, expected.grad_weights])
        theirs[-1] += expected.grad_loras.values()
    for index, (our, their) in enumerate(
        zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True)
    ):
        limit = GRADIENT_LIMIT if index else FORWARD_LIMIT
        assert_near(torch.cat(our), torch.cat(their), limit)


def test_skipped_doubled_and_unused_experts():
    small = loaded()
    ids = small.inputs.expert_ids
    ids[ids == 4] = 3
    ids[0] = -1
    ids[1, 1:] = -1
    ids[2] = 2
    output = small.forward()
    gradients = small.layer.backward(small.inputs.grad_output, routing_weights_grad=True)
    expected = small.reference()
    assert_near(output, expected.output, FORWARD_LIMIT)
    assert_gradients(gradients, expected)
    assert not output[0].any()
    assert all(not gradient[4].any() for gradient in gradients[1].values())
    assert not gradients[2][ids < 0].any()


@pytest.mark.parametrize("method", ["AMXBF16", "BF16"])
def test_inference_methods_have_no_adapters(method):
    small = loaded(method, threadpool_count=2)
    assert_near(small.forward(), small.reference().output, FORWARD_LIMIT)


@pytest.mark.parametrize("method", [SFT, "AMXBF16"])
def test_experts_of_the_gpu_are_skipped(method):
    mask = torch.tensor([True, True, False, False, False])
    plain = loaded(method)
    ids = plain.inputs.expert_ids
    without = dataclasses.replace(plain.inputs, expert_ids=torch.where(ids < 2, -1, ids))
    expected = plain.forward(without)
    by_mask = loaded(method, gpu_experts_mask=mask)
    by_count = loaded(method, num_gpu_experts=2)
    both = loaded(method, gpu_experts_mask=mask, num_gpu_experts=2)
    mask.fill_(False)  # the layer has its own copy
    for small in (by_mask, by_count, both):
        assert small.layer.num_gpu_experts == 2
        torch.testing.assert_close(small.forward(), expected, rtol=0, atol=0)


def test_inputs_may_change_after_forward():
    small = loaded()
    expected = small.reference()
    small.forward()
    small.inputs.hidden_states.zero_()
    small.inputs.expert_ids.fill_(-1)
    small.inputs.weights.zero_()
    gradients = small.layer.backward(small.inputs.grad_output, routing_weights_grad=True)
    assert_gradients(gradients, expected)


def test_long_inputs_are_worked_through_in_chunks():
    small = loaded(chunked_prefill_size=4)
    output = small.forward()
    gradients = small.layer.backward(small.inputs.grad_output, routing_weights_grad=True)
    assert_near(output, small.reference().output, FORWARD_LIMIT)
    assert_gradients(gradients, small.reference())
    torch.testing.assert_close(output, loaded().forward(), rtol=0, atol=0)


@pytest.mark.parametrize("threads", [None, 1, 2, 5])
def test_any_number_of_threads_gives_the_same_bits(threads):
    one, other = loaded(cpuinfer_threads=1), loaded(cpuinfer_threads=threads)
    results = []
    for small in (one, other):
        output = small.forward()
        dx, loras, dr = small.layer.backward(small.inputs.grad_output, routing_weights_grad=True)
        results.append([output, dx, dr, *loras.values()])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("num_experts", "top_k", "hidden", "inter", "rank", "parts"),
    [
        (4, 2, 1, 24, 2, 1),
        (4, 2, 24, 1, 1, 1),
        (1, 1, 24, 24, 1, 1),
        (3, 2, 17, 5, 1, 5),
        (2, 2, 64, 96, 256, 3),
        (9, 4, 33, 50, 7, 2),
        (2, 5, 130, 16, 3, 16),
    ],
)
def test_any_sizes(num_experts, top_k, hidden, inter, rank, parts):
    """More slots than experts among them, so that tokens name an expert several times."""
    weights = SyntheticExperts(num_experts, hidden, inter).stacked()
    loras = make_loras(num_experts, hidden, inter, rank)
    layer = KTMoEWrapper(
        0, num_experts, top_k, hidden, inter, lora_rank=rank, threadpool_count=parts
    )
    layer.load_weights_from_tensors(*weights)
    layer.init_lora_weights(**loras)
    torch.manual_seed(0)
    hidden_states, grad_output = torch.randn(2, 200, hidden).bfloat16()
    ids = torch.randint(-1, num_experts, (200, top_k))
    routing = torch.rand(200, top_k)
    expected = moe_reference(
        hidden_states,
        ids,
        routing,
        list(zip(*weights, strict=True)),
        loras,
        layer.lora_scaling,
        grad_output=grad_output,
    )
    assert_near(layer.forward_sft(hidden_states, ids, routing), expected.output, FORWARD_LIMIT)
    assert_gradients(layer.backward(grad_output, routing_weights_grad=True), expected)


class Operators(TorchDispatchMode):
    """Counts the operators that PyTorch runs."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_call_runs_no_operator_but_its_allocations():
    small = loaded()
    with Operators() as forward:
        small.forward()
    with Operators() as backward:
        small.layer.backward(small.inputs.grad_output, routing_weights_grad=True)
    assert forward.names == ["empty_like"]
    assert backward.names == ["empty_like"] * 7 + ["empty"]


def test_the_native_layer_is_made_as_asked(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(experts.ext, "Layer", lambda **options: made.append(options))
    monkeypatch.setattr(experts.ext, "cpu_count", lambda: 8)
    wrapper(
        lora_alpha=6.0,
        max_cache_depth=3,
        cpuinfer_threads=7,
        threadpool_count=2,
        chunked_prefill_size=99,
        offload_folder=tmp_path,
    )
    wrapper("BF16", cpuinfer_threads=9)
    sft, inference = made
    assert sft == {
        "num_experts": EXPERTS,
        "hidden_size": HIDDEN,
        "intermediate_size": INTER,
        "top_k": TOP_K,
        "format": "bf16",
        "group_size": 128,
        "lora_rank": RANK,
        "lora_scaling": 6.0 / RANK,
        "parts": 2,
        "threads": 7,
        "cache_depth": 3,
        "chunk_tokens": 99,
        "folder": os.fsencode(tmp_path),
    }
    assert (inference["lora_rank"], inference["folder"]) == (0, b"")
    assert inference["threads"] == 8  # no more than there are cores
    wrapper()
    assert made[-1]["threads"] == 8


def test_attributes():
    small = loaded(
        lora_alpha=6.0, max_cache_depth=3, threadpool_count=2, cpuinfer_threads=2, mode="sft"
    )
    layer = small.layer
    assert layer._weights_loaded is True
    assert wrapper()._weights_loaded is False
    assert layer.lora_scaling == 6.0 / RANK
    assert (layer.threadpool_count, layer.max_cache_depth) == (2, 3)
    assert (layer.method, layer.mode) == (SFT, "sft")
    assert wrapper("BF16").mode == "inference"
