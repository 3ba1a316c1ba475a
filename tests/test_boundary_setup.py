"""Bad weights, adapters and options: the exception, its message, and that nothing was lost."""

import os

import pytest
import torch
from small_layer import (
    EXPERTS,
    FORWARD_LIMIT,
    HIDDEN,
    INTER,
    QLEN,
    RANK,
    TOP_K,
    adapters,
    assert_gradients,
    assert_near,
    batch,
    freed,
    loaded,
    stacked,
    strided,
    wrapper,
)

from kt_kernel._native import ext
from kt_kernel.synthetic import make_loras

NAN = float("nan")


def with_expert(change):
    """The same weights as a list, the second expert of them changed."""

    def make(weight):
        experts = list(weight)
        experts[1] = change(experts[1])
        return experts

    return make


WEIGHT_FAULTS = [
    (lambda w: None, TypeError, "tensor or an iterable of tensors, got NoneType"),
    (lambda w: 7, TypeError, "got int"),
    (lambda w: w[:-1], ValueError, "wanted shape"),
    (lambda w: w[0], ValueError, "wanted shape"),
    (lambda w: w.mT, ValueError, "wanted shape"),
    (lambda w: w.half(), TypeError, "float16"),
    (lambda w: w.to(torch.float8_e4m3fn), TypeError, "float8"),
    (lambda w: w.to("meta"), ValueError, "meta"),
    (lambda w: w.to_sparse(), ValueError, "dense"),
    (lambda w: freed(w), ValueError, "freed"),
    (lambda w: list(w)[:-1], ValueError, f"wanted {EXPERTS} experts, got {EXPERTS - 1}"),
    (lambda w: iter(list(w)[:-1]), ValueError, f"wanted {EXPERTS} experts, got {EXPERTS - 1}"),
    (lambda w: [*w, w[0]], ValueError, f"wanted {EXPERTS} experts, got more"),
    (with_expert(lambda e: e[:-1]), ValueError, "wanted shape"),
    (with_expert(lambda e: e.half()), TypeError, "float16"),
    (with_expert(lambda e: e.tolist()), TypeError, "got list"),
    (with_expert(lambda e: e.to("meta")), ValueError, "meta"),
    (with_expert(freed), ValueError, "freed"),
]


@pytest.mark.parametrize(("change", "error", "message"), WEIGHT_FAULTS)
@pytest.mark.parametrize("index", [0, 2])
def test_loading_refuses(index, change, error, message):
    layer = wrapper("BF16")
    weights = list(stacked())
    weights[index] = change(weights[index])
    name = ("gate_proj", "up_proj", "down_proj")[index]
    with pytest.raises(error, match=rf"(?s)^{name}.*{message}"):
        layer.load_weights_from_tensors(*weights)
    assert not layer._weights_loaded
    layer.load_weights_from_tensors(*stacked())
    inputs = batch()
    output = layer.forward(inputs.hidden_states, inputs.expert_ids, inputs.weights)
    assert torch.equal(output, loaded("BF16").forward())


MAP_FAULTS = [
    ([0, 1, 2, 3, 4], TypeError, "got list"),
    (torch.arange(EXPERTS, dtype=torch.int32), TypeError, "int64"),
    (torch.arange(EXPERTS - 1), ValueError, "wanted shape"),
    (torch.arange(1, EXPERTS + 1), ValueError, "permutation"),
    (torch.zeros(EXPERTS, dtype=torch.int64), ValueError, "permutation"),
    (torch.arange(EXPERTS) - 1, ValueError, "permutation"),
    (torch.arange(EXPERTS, device="meta"), ValueError, "meta"),
]


@pytest.mark.parametrize(("order", "error", "message"), MAP_FAULTS)
def test_the_map_is_a_permutation(order, error, message):
    layer = wrapper("BF16")
    with pytest.raises(error, match=rf"^physical_to_logical_map_cpu.*{message}"):
        layer.load_weights_from_tensors(*stacked(), physical_to_logical_map_cpu=order)
    layer.load_weights_from_tensors(*stacked(), physical_to_logical_map_cpu=torch.arange(EXPERTS))


# ---- adapters ----

LORA_FAULTS = [
    (lambda t: None, TypeError, "got NoneType"),
    (lambda t: t.double(), TypeError, "float64"),
    (lambda t: t.half(), TypeError, "float16"),
    (lambda t: t.float(), TypeError, "dtype"),
    (lambda t: t.to("meta"), ValueError, "meta"),
    (lambda t: t.to_sparse(), ValueError, "dense"),
    (lambda t: t[:-1], ValueError, "wanted shape"),
    (lambda t: t[0], ValueError, "wanted shape"),
    (strided, ValueError, "contiguous"),
    (freed, ValueError, "freed"),
]


@pytest.mark.parametrize(("change", "error", "message"), LORA_FAULTS)
@pytest.mark.parametrize("name", adapters())
def test_adapters_are_refused(name, change, error, message):
    small = loaded()
    before = small.forward(save=False)
    bad = {**small.loras, name: change(small.loras[name])}
    # One float32 among bfloat16: the first counts as right, so a wrong first names the second.
    named = "(gate|up|down)_lora_[ab]" if message == "dtype" else name
    with pytest.raises(error, match=rf"(?s)^{named}.*{message}"):
        small.layer.init_lora_weights(**bad)
    assert torch.equal(small.forward(), before)  # those set before still hold


@pytest.mark.parametrize("rank", [RANK - 1, RANK + 1, 1])
def test_another_rank(rank):
    loras = make_loras(EXPERTS, HIDDEN, INTER, rank)
    with pytest.raises(ValueError, match=rf"gate_lora_a.*lora_rank={RANK}.*got \[5, {rank}, 70\]"):
        wrapper().init_lora_weights(**loras)


def test_adapters_whose_memory_was_freed():
    small = loaded()
    expected = small.reference().output
    small.forward()
    tensor = small.loras["up_lora_b"]
    content, size = tensor.clone(), tensor.untyped_storage().nbytes()
    tensor.untyped_storage().resize_(0)
    for call in (
        lambda: small.forward(save=False),
        lambda: small.layer.backward(small.inputs.grad_output),
        lambda: small.layer.update_lora_weights(),
    ):
        with pytest.raises(ValueError, match=r"up_lora_b.*freed"):
            call()
    tensor.untyped_storage().resize_(size)
    tensor.copy_(content)
    assert_gradients(small.layer.backward(small.inputs.grad_output), small.reference())
    assert_near(small.forward(), expected, FORWARD_LIMIT)


def test_adapters_whose_data_was_replaced_by_something_unfit():
    small = loaded()
    small.forward()
    tensor = small.loras["down_lora_a"]
    fit = tensor.data
    tensor.data = torch.zeros(EXPERTS, RANK + 1, INTER, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"down_lora_a.*wanted shape"):
        small.layer.update_lora_weights()
    with pytest.raises(ValueError, match=r"down_lora_a.*wanted shape"):
        small.layer.backward(small.inputs.grad_output)
    tensor.data = fit
    assert_gradients(small.layer.backward(small.inputs.grad_output), small.reference())


# ---- the constructor ----

CONSTRUCTOR_FAULTS = [
    *(
        (name, value, error, name)
        for name in (
            "num_experts",
            "num_experts_per_tok",
            "hidden_size",
            "moe_intermediate_size",
            "lora_rank",
            "max_cache_depth",
            "cpuinfer_threads",
            "threadpool_count",
            "chunked_prefill_size",
            "group_size",
        )
        for value, error in (
            (0, ValueError),
            (-1, ValueError),
            (2**70, ValueError),
            (1.5, TypeError),
            ("4", TypeError),
            (True, TypeError),
        )
    ),
    ("layer_idx", -1, ValueError, "layer_idx"),
    ("layer_idx", "0", TypeError, "layer_idx"),
    ("num_experts", None, TypeError, "num_experts"),
    ("lora_alpha", 0.0, ValueError, "lora_alpha"),
    ("lora_alpha", NAN, ValueError, "lora_alpha"),
    ("lora_alpha", "32", TypeError, "lora_alpha"),
    ("lora_alpha", 10**400, ValueError, "lora_alpha"),
    ("lora_alpha", 1e40, ValueError, "lora_alpha: wanted lora_alpha / lora_rank from"),
    ("lora_alpha", 1e-60, ValueError, "lora_alpha: wanted lora_alpha / lora_rank from"),
    ("lora_rank", 257, ValueError, "lora_rank: wanted 1 to 256, got 257"),
    ("moe_intermediate_size", 2**25, ValueError, "moe_intermediate_size: wanted 1 to 16777216"),
    ("num_experts_per_tok", 2**25, ValueError, "num_experts_per_tok: wanted 1 to 16777216"),
    ("max_cache_depth", 2**25, ValueError, "max_cache_depth: wanted 1 to 16777216"),
    ("threadpool_count", 5, ValueError, "threadpool_count=5 does not divide moe_intermediate_size"),
    ("method", "AMXBF15", ValueError, "method: 'AMXBF15' is unknown; available: AMXBF16_SFT"),
    ("method", None, ValueError, "method"),
    ("mode", "inference", ValueError, "contradicts method AMXBF16_SFT"),
    ("mode", "train", ValueError, "mode: 'train' is unknown"),
    ("num_gpu_experts", -1, ValueError, "num_gpu_experts"),
    ("num_gpu_experts", EXPERTS + 1, ValueError, "num_gpu_experts"),
    ("gpu_experts_mask", [True] * EXPERTS, TypeError, "gpu_experts_mask"),
    ("gpu_experts_mask", torch.ones(EXPERTS), TypeError, "gpu_experts_mask"),
    ("gpu_experts_mask", torch.ones(4, dtype=torch.bool), ValueError, "gpu_experts_mask"),
    ("weight_pth", "", TypeError, "weight_pth"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), CONSTRUCTOR_FAULTS)
def test_the_constructor_refuses(name, value, error, message):
    with pytest.raises(error, match=message):
        wrapper(**{name: value})


def test_the_mask_is_read_and_not_set():
    mask = torch.tensor([True, False, True, False, False])
    layer = wrapper(gpu_experts_mask=mask)
    assert torch.equal(layer.gpu_experts_mask, mask)
    with pytest.raises(AttributeError):
        layer.gpu_experts_mask = None


def test_mask_and_count_must_agree():
    mask = torch.tensor([True, False, True, False, False])
    with pytest.raises(ValueError, match=r"num_gpu_experts=3.*marks 2"):
        wrapper(gpu_experts_mask=mask, num_gpu_experts=3)


NEUTRAL = {
    "cpu_save": ([False, None], [True]),
    "full_weight_grad": ([False], [True]),
    "lora_dropout": ([0.0, 0], [0.1]),
    "max_deferred_experts_per_token": ([None, 0], [2]),
    "numa_nodes": ([None], [[0], [0, 1]]),
    "swiglu_alpha": ([0.0, None], [1.702]),
    "swiglu_limit": ([0.0, None], [7.0, NAN]),
    "zero_point": ([False], [True]),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (fine, _) in NEUTRAL.items() for value in fine]
)
def test_other_keywords_are_accepted_when_they_ask_for_nothing(name, value):
    wrapper(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (_, other) in NEUTRAL.items() for value in other]
)
def test_other_keywords_are_refused_by_name(name, value):
    with pytest.raises(NotImplementedError, match=rf"^{name}=.*not built yet"):
        wrapper(**{name: value})


def test_more_threads_than_cores_are_allowed_and_not_started():
    before = len(os.listdir("/proc/self/task"))
    small = loaded(cpuinfer_threads=1000)
    assert small.forward().shape == (QLEN, HIDDEN)
    assert small.inputs.expert_ids.shape == (QLEN, TOP_K)
    started = len(os.listdir("/proc/self/task")) - before
    assert started <= 2 * ext.cpu_count()  # PyTorch's, too
