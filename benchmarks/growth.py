"""Memory that training takes more of with every step: none should be left behind."""

from .case import Case, finite
from .memory import anonymous_bytes, give_back_free_memory
from .presets import GROWTH, PARAM_NAMES, SFT_METHODS
from .training_step import step

WARM_UP = 100  # steps in which buffers and the heap grow to their size
STEPS = 1000


class Growth:
    """The process, Python and PyTorch in it, after many steps over before them: 1 is no growth."""

    params = (SFT_METHODS, tuple(GROWTH))
    param_names = PARAM_NAMES
    version = "1"

    def setup(self, method, preset):
        self.case = Case(method, GROWTH[preset]).load()
        for _ in range(WARM_UP):
            step(self.case)

    def track_growth_over_1000_steps(self, method, preset):
        give_back_free_memory()
        before = anonymous_bytes()
        for _ in range(STEPS):
            step(self.case)
        give_back_free_memory()
        return finite(anonymous_bytes() / before, "memory after steps over before")

    track_growth_over_1000_steps.unit = "x"
