"""Numbers that bfloat16 holds, and their bits, since numpy has no such type."""

import numpy as np
import torch


def bf16_bits(values):
    """float64, float32 or float16 to the bits of bfloat16, by torch."""
    return torch.tensor(values).bfloat16().view(torch.uint16).numpy()


def from_bits(bits):
    """The bits of bfloat16 to float32, which is exact."""
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def integers(rng, *shape):
    """Small ones: bfloat16 holds them, and float32 their sums of products in any order."""
    return rng.integers(-8, 9, shape).astype(np.float32)
