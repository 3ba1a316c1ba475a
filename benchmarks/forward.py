"""Time of one forward that saves nothing for backward."""

from . import timing
from .presets import PARAM_NAMES, PARAMS


class Forward(timing.TimedCase):
    """The call that serves inference."""

    params = PARAMS
    param_names = PARAM_NAMES

    def time_forward(self, method, preset):
        self.case.forward()
