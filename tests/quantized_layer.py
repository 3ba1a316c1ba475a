"""Small layers of every quantizing format and group size, and codes for them in every packing."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kt_kernel import KTMoEWrapper, quantize
from kt_kernel.synthetic import MoEInputs, SyntheticExperts, make_inputs, make_loras

EXPERTS, TOP_K, RANK, QLEN = 3, 2, 4, 7
WEIGHTS, SCALES = ("gate_proj", "up_proj", "down_proj"), ("gate_scale", "up_scale", "down_scale")


@dataclass(frozen=True)
class Case:
    """A method and sizes it takes: odd where nothing is grouped, an odd number of groups else."""

    method: str
    format: str
    bits: int
    group: int
    hidden: int
    inter: int

    def __str__(self) -> str:
        return f"{self.format}{self.group or ''}"

    def wrapper(self, **options) -> KTMoEWrapper:
        """A layer without weights."""
        return KTMoEWrapper(
            **{
                "layer_idx": 0,
                "num_experts": EXPERTS,
                "num_experts_per_tok": TOP_K,
                "hidden_size": self.hidden,
                "moe_intermediate_size": self.inter,
                "method": self.method,
                "lora_rank": RANK,
                "group_size": self.group or 128,
                **options,
            }
        )

    def weights(self, seed: int = 0) -> dict[str, Tensor]:
        """gate_proj, up_proj, down_proj as they were before rounding."""
        experts = SyntheticExperts(EXPERTS, self.hidden, self.inter, seed=seed)
        return dict(zip(WEIGHTS, experts.stacked(), strict=True))

    def codes(self, seed: int = 0) -> dict[str, Tensor]:
        """All six arguments: random codes, every one that there is among them, in int8, and scales.

        The scales' values are those of bfloat16, as a checkpoint's.
        """
        generator = torch.Generator().manual_seed(seed)
        arguments = {}
        for name, weight in self.weights(seed).items():
            shape = weight.shape
            end = 2 ** (self.bits - 1)
            codes = torch.randint(-end, end, shape, generator=generator, dtype=torch.int8)
            arguments[name] = codes
        for name, weight in zip(SCALES, list(arguments.values()), strict=True):
            *rows, cols = weight.shape
            shape = (*rows, cols // self.group) if self.group else tuple(rows)
            scale = torch.rand(shape, generator=generator) + 0.5
            scale *= torch.randint(0, 2, shape, generator=generator) * 2 - 1  # of either sign
            scale = scale / (2**self.bits / 4 * cols**0.5)
            arguments[name] = scale.bfloat16().float()
        return arguments

    def rounded(self, seed: int = 0, **options) -> dict[str, Tensor]:
        """All six arguments, as `quantize` makes them of `weights`."""
        arguments = {}
        for (name, weight), scale in zip(self.weights(seed).items(), SCALES, strict=True):
            arguments[name], arguments[scale] = quantize(
                weight, self.method, self.group or 128, **options
            )
        return arguments

    def inputs(self) -> MoEInputs:
        return make_inputs(QLEN, EXPERTS, TOP_K, self.hidden)

    def loras(self) -> dict[str, Tensor]:
        return make_loras(EXPERTS, self.hidden, self.inter, RANK)

    def results(self, arguments: dict, order: Tensor | None = None, **options) -> list[Tensor]:
        """Output and every gradient of a layer that loads `arguments`."""
        layer = self.wrapper(**options)
        layer.load_weights_from_tensors(**arguments, physical_to_logical_map_cpu=order)
        return self.step(layer)

    def step(self, layer: KTMoEWrapper) -> list[Tensor]:
        """Output and every gradient of a loaded layer."""
        layer.init_lora_weights(**self.loras())
        inputs = self.inputs()
        output = layer.forward_sft(inputs.hidden_states, inputs.expert_ids, inputs.weights)
        grad_input, grad_loras, grad_weights = layer.backward(inputs.grad_output, True)
        return [output, grad_input, *grad_loras.values(), grad_weights]


CASES = [
    Case("AMXINT8_SFT", "int8", 8, 0, 70, 37),
    Case("AMXINT4_SFT", "int4", 4, 0, 71, 38),
    Case("AMXINT4_KGroup_SFT", "int4_kgroup", 4, 32, 160, 96),
    Case("AMXINT4_KGroup_SFT", "int4_kgroup", 4, 64, 192, 128),
    Case("AMXINT4_KGroup_SFT", "int4_kgroup", 4, 128, 384, 256),
]


def packed(codes: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Codes [..., K] packed along K, written out digit by digit."""
    per = torch.iinfo(dtype).bits // bits
    *rows, cols = codes.shape
    unsigned = np.zeros((*rows, -(-cols // per) * per), dtype=np.int64)
    unsigned[..., :cols] = codes.numpy().astype(np.int64) + 2 ** (bits - 1)
    words = sum(unsigned[..., i::per] << (bits * i) for i in range(per))
    return torch.from_numpy(words).to(dtype)  # wraps where the highest bit is set


def same(actual: list[Tensor], expected: list[Tensor]) -> bool:
    """Whether all are equal to the last bit."""
    return all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
