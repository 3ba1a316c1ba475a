"""Time of one backward: the gradients of the input and of the six LoRA tensors."""

from . import timing
from .presets import PARAM_NAMES, SFT_PARAMS


class Backward(timing.TimedCase):
    """Each sample consumes a forward of its own, which is not timed."""

    params = SFT_PARAMS
    param_names = PARAM_NAMES

    def prepare(self):
        self.case.forward(save=True)

    def time_backward(self, method, preset):
        self.case.backward()
