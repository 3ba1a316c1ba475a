"""What no commit of ours touches: where its time moves, the machine has."""

from collections.abc import Callable

import torch

from . import timing
from .inputs import make_weights
from .presets import PRESETS, Preset


def product(shape: Preset, gate: list[torch.Tensor]) -> Callable[[], torch.Tensor]:
    """PyTorch's product of the rows of every expert and its gate [I, H], in float32."""
    rows = shape.tokens * shape.top_k // shape.experts
    x = torch.randn(shape.experts, rows, shape.hidden, generator=torch.Generator().manual_seed(1))
    weights = torch.stack(gate).float().transpose(1, 2)
    return lambda: torch.bmm(x, weights)


class Control(timing.TimedCase):
    """PyTorch alone, in samples like those of the layer."""

    params = (tuple(PRESETS),)
    param_names = ("preset",)
    version = "1"

    def load(self, preset):
        gate, _, _ = make_weights(PRESETS[preset])
        return product(PRESETS[preset], gate)

    def time_product(self, preset):
        self.case()
