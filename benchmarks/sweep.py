"""Time over the number of tokens per expert: no size may cost much more per token than the next."""

from . import timing
from .case import Case
from .presets import PARAM_NAMES, SFT_METHODS, SWEEP


class Sweep(timing.TimedCase):
    """One layer, ever more tokens: the number in the preset's name is that of each expert's."""

    params = (SFT_METHODS, tuple(SWEEP))
    param_names = PARAM_NAMES
    version = "2"
    repeat = (5, 15, 0.5)  # there are many rows

    def load(self, method, preset):
        return Case(method, SWEEP[preset]).load()

    def time_forward(self, method, preset):
        self.case.forward()

    def time_forward_backward(self, method, preset):
        self.case.forward(save=True)
        self.case.backward()
