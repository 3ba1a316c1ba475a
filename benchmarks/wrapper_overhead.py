"""What the Python class costs over a direct call of the extension: same layer, same tensors."""

import torch

from . import timing
from .case import finite, native
from .presets import PARAM_NAMES, SFT_PARAMS


class WrapperOverhead(timing.TimedCase):
    """A forward that saves nothing, both ways."""

    params = SFT_PARAMS
    param_names = PARAM_NAMES

    def setup(self, method, preset):
        if self.case is not None:
            return
        super().setup(method, preset)
        batch, layer = self.case.batch, self.case.native_layer()
        self.output = torch.empty_like(batch.hidden_states)
        tensors = {
            "hidden_states": batch.hidden_states,
            "expert_ids": batch.expert_ids,
            "weights": batch.weights,
            "output": self.output,
        }
        views = [
            native().Tensor(name, t.data_ptr(), str(t.dtype).removeprefix("torch."), list(t.shape))
            for name, t in tensors.items()
        ]
        self.call = lambda: layer.forward(*views, False, None)

    def time_wrapper(self, method, preset):
        self.case.forward()

    def time_native(self, method, preset):
        self.call()

    def track_overhead_percent(self, method, preset):
        over = timing.ratio(self.case.forward, self.call, seconds=1.0, at_least=10)
        return finite(100 * (over - 1), "overhead")

    track_overhead_percent.unit = "%"
    track_overhead_percent.compare_by = "difference"  # for tools/results_table.py: it may be near 0
