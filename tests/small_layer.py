"""A small layer with random weights, adapters and inputs, and what it should compute."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from kt_kernel import KTMoEWrapper
from kt_kernel.reference import Expert, MoEReference, compute_relative_error, moe_reference
from kt_kernel.synthetic import MoEInputs, SyntheticExperts, make_inputs, make_loras

# No size is a multiple of a vector's width; 36 divides into 1, 2, 3 and 4 parts.
EXPERTS, TOP_K, HIDDEN, INTER, RANK, QLEN = 5, 3, 70, 36, 4, 13

# For inputs and adapters that are bfloat16, or float32 with the values of bfloat16.
FORWARD_LIMIT, GRADIENT_LIMIT = 0.004, 0.006

SFT = "AMXBF16_SFT"

# The reference works on tiny matrices: where other processes keep the cores busy, a second OpenMP
# thread made it 80 times slower.
torch.set_num_threads(1)


def wrapper(method: str = SFT, **options) -> KTMoEWrapper:
    """A layer of the sizes above, without weights."""
    sizes = {
        "layer_idx": 0,
        "num_experts": EXPERTS,
        "num_experts_per_tok": TOP_K,
        "hidden_size": HIDDEN,
        "moe_intermediate_size": INTER,
    }
    return KTMoEWrapper(**{**sizes, "method": method, "lora_rank": RANK, **options})


@dataclass
class SmallLayer:
    """A loaded layer; `inputs` are one batch for it."""

    layer: KTMoEWrapper
    experts: list[Expert]
    loras: dict[str, Tensor]
    inputs: MoEInputs = dataclasses.field(default_factory=lambda: batch())

    def forward(self, inputs: MoEInputs | None = None, save: bool = True) -> Tensor:
        inputs = inputs or self.inputs
        arguments = inputs.hidden_states, inputs.expert_ids, inputs.weights
        if self.layer.mode == "inference":
            return self.layer.forward(*arguments)
        return self.layer.forward_sft(*arguments, save_for_backward=save)

    def reference(self, inputs: MoEInputs | None = None) -> MoEReference:
        """Output and gradients in float32, from the weights and adapters as they are now."""
        inputs = inputs or self.inputs
        return moe_reference(
            inputs.hidden_states,
            inputs.expert_ids,
            inputs.weights,
            self.experts,
            self.loras if self.layer.mode == "sft" else None,
            self.layer.lora_scaling,
            grad_output=inputs.grad_output,
        )


def batch(qlen: int = QLEN, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> MoEInputs:
    """Inputs whose values are those of bfloat16, whatever their dtype."""
    inputs = make_inputs(qlen, EXPERTS, TOP_K, HIDDEN, seed=seed)
    return dataclasses.replace(
        inputs,
        hidden_states=inputs.hidden_states.to(dtype),
        grad_output=inputs.grad_output.to(dtype),
    )


def adapters(seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """LoRA tensors whose values are those of bfloat16, whatever their dtype."""
    loras = make_loras(EXPERTS, HIDDEN, INTER, RANK, seed=seed)
    return {name: tensor.to(dtype) for name, tensor in loras.items()}


def stacked(seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Tensor]:
    """gate_proj, up_proj, down_proj."""
    return SyntheticExperts(EXPERTS, HIDDEN, INTER, seed=seed, dtype=dtype).stacked()


def loaded(
    method: str = SFT,
    *,
    seed: int = 0,
    lora_dtype: torch.dtype = torch.bfloat16,
    weight_dtype: torch.dtype = torch.bfloat16,
    **options,
) -> SmallLayer:
    layer = wrapper(method, **options)
    weights = stacked(seed, weight_dtype)
    layer.load_weights_from_tensors(*weights)
    loras = adapters(seed, lora_dtype)
    if layer.mode == "sft":
        layer.init_lora_weights(*loras.values())
    return SmallLayer(layer, list(zip(*weights, strict=True)), loras)


def strided(tensor: Tensor) -> Tensor:
    """The same values with gaps between the rows."""
    return torch.cat([tensor, tensor], dim=-1)[..., : tensor.shape[-1]]


def freed(tensor: Tensor) -> Tensor:
    """A tensor whose storage was taken away."""
    copy = tensor.clone()
    copy.untyped_storage().resize_(0)
    return copy


def shrunk(tensor: Tensor) -> Tensor:
    """A tensor that begins within its storage and ends behind it."""
    copy = torch.cat([tensor, tensor])[len(tensor) :]
    copy.untyped_storage().resize_(tensor.nbytes + 8)
    return copy


def assert_near(actual: Tensor, expected: Tensor, limit: float) -> None:
    """mean|a-b| / mean|b| below the limit; where all of b is zero, a is zero as well."""
    assert torch.isfinite(actual.float()).all()
    if not expected.any():
        assert not actual.any()
        return
    assert compute_relative_error(actual, expected) < limit


def assert_gradients(
    gradients: tuple, expected: MoEReference, limit: float = GRADIENT_LIMIT
) -> None:
    """What `backward` returned against the reference."""
    grad_input, grad_loras, *grad_weights = gradients
    assert_near(grad_input, expected.grad_input, limit)
    assert list(grad_loras) == list(expected.grad_loras)
    for name, gradient in grad_loras.items():
        assert_near(gradient, expected.grad_loras[name], limit)
    for gradient in grad_weights:
        assert_near(gradient, expected.grad_weights, limit)
