#!/usr/bin/env python
"""Trains a tiny language model whose MoE layer runs in kt_kernel, as a plain PyTorch loop.

python examples/train_tiny.py

The model guesses the next byte of this file from the three before it. Its experts are frozen;
the LoRA adapters, the router, the embedding and the head learn. Takes a few seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parent.parent))

from torch import nn
from torch.nn.functional import cross_entropy

from kt_kernel import KTMoELayer, KTMoEWrapper
from kt_kernel.synthetic import SyntheticExperts

EXPERTS, TOP_K, HIDDEN, INTER, CONTEXT = 8, 2, 96, 128, 3


class TinyModel(nn.Module):
    """Embedding, one MoE layer with a residual connection, head."""

    def __init__(self) -> None:
        super().__init__()
        wrapper = KTMoEWrapper(
            layer_idx=0,
            num_experts=EXPERTS,
            num_experts_per_tok=TOP_K,
            hidden_size=HIDDEN,
            moe_intermediate_size=INTER,
            method="AMXBF16_SFT",
            lora_rank=8,
            lora_alpha=16.0,
        )
        # A pretrained model's experts come from its checkpoint: weight_path=..., load_weights().
        wrapper.load_weights_from_tensors(*SyntheticExperts(EXPERTS, HIDDEN, INTER).stacked())
        self.embedding = nn.Embedding(256, HIDDEN // CONTEXT)
        self.router = nn.Linear(HIDDEN, EXPERTS)
        self.experts = KTMoELayer(wrapper, dtype=torch.float32)
        self.head = nn.Linear(HIDDEN, 256)

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """context: bytes [n, 3]; returns logits [n, 256]."""
        hidden = self.embedding(context).flatten(1)
        weights, ids = torch.topk(self.router(hidden).softmax(-1), TOP_K)
        return self.head(hidden + self.experts(hidden, ids, weights))


def main() -> int:
    """Returns the exit status."""
    torch.manual_seed(0)
    text = torch.frombuffer(bytearray(Path(__file__).read_bytes()), dtype=torch.uint8).long()
    windows = text.unfold(0, CONTEXT + 1, 1)
    context, target = windows[:, :CONTEXT], windows[:, CONTEXT]
    model = TinyModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(61):
        optimizer.zero_grad()
        loss = cross_entropy(model(context), target)
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            print(f"step {step:3d}  loss {loss.item():.3f}")
    print("adapters:", ", ".join(model.experts.state_dict()))
    return 0 if loss.item() < 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
