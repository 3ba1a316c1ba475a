"""A KTMoELayer over the small layer, and what tests ask of it."""

import gc

import torch
from small_layer import (
    EXPERTS,
    HIDDEN,
    INTER,
    loaded,
)

from kt_kernel import KTMoELayer
from kt_kernel.reference import moe_reference
from kt_kernel.synthetic import SyntheticExperts

IDLE = EXPERTS - 1
EXPERT_WEIGHTS = SyntheticExperts(EXPERTS, HIDDEN, INTER)


def make_layer(dtype=torch.bfloat16, depth=4):
    """A layer with an adapter that looks trained."""
    small = loaded(lora_dtype=dtype, max_cache_depth=depth)
    layer = KTMoELayer(small.layer, dtype=dtype)
    layer.load_state_dict(small.loras)
    return layer


def leaves(batch):
    """The differentiable inputs of a batch."""
    return batch.hidden_states.clone().requires_grad_(), batch.weights.clone().requires_grad_()


def run(layer, batch, **options):
    return layer(batch.hidden_states, batch.expert_ids, batch.weights, **options)


def expected(layer, batch):
    return moe_reference(
        batch.hidden_states,
        batch.expert_ids,
        batch.weights,
        EXPERT_WEIGHTS,
        layer.state_dict(),
        layer.wrapper.lora_scaling,
        grad_output=batch.grad_output,
        dtype=torch.float64,
    )


def gradients(layer):
    return {name: parameter.grad for name, parameter in layer.named_parameters()}


def slots_in_use(layer):
    gc.collect()
    return layer.wrapper._layer.cache_used
