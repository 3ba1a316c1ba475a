"""The same layer in PyTorch: what a user has without this project."""

import torch
from torch.nn.functional import linear, silu

from benchmarks.roofline import GroupedMM


class LinearByExpert(GroupedMM):
    """F.linear over each expert's tokens, autograd making the backward."""

    def run(self) -> torch.Tensor:
        """The output, in the type that was asked for."""
        batch, shape = self.case.batch, self.case.shape
        flat = batch.expert_ids.flatten()
        order = flat.argsort(stable=True)
        token = order // shape.top_k
        counts = torch.bincount(flat, minlength=shape.experts).tolist()
        # Unbound, so that their gradients are stacked once and not summed over E zero-filled ones.
        lora = zip(*(tensor.unbind() for tensor in self.lora), strict=True)
        base = zip(*self.weights, strict=True)

        def project(value, weight, a, b):
            low = linear(linear(value, a), b)
            return linear(value, weight) + shape.lora_scaling * low

        parts = []
        rows = self.x[token].split(counts)
        for x, (gate, up, down), adapters in zip(rows, base, lora, strict=True):
            gate_a, gate_b, up_a, up_b, down_a, down_b = adapters
            hidden = silu(project(x, gate, gate_a, gate_b)) * project(x, up, up_a, up_b)
            parts.append(project(hidden, down, down_a, down_b))
        y = torch.cat(parts) * batch.weights.flatten()[order, None].to(self.x.dtype)
        output = torch.zeros(self.x.shape, dtype=torch.float32)
        return output.index_add_(0, token, y.float()).to(self.x.dtype)


# By the names that the table gives them, which end in their type.
BASELINES = {
    "F.linear bf16": lambda case: LinearByExpert(case, torch.bfloat16),
    "F.linear f32": lambda case: LinearByExpert(case, torch.float32),
}
if hasattr(torch, "_grouped_mm"):
    BASELINES = {"_grouped_mm bf16": lambda case: GroupedMM(case, torch.bfloat16)} | BASELINES
