"""Time of one training step: forward, backward, plain SGD on the LoRA tensors, update."""

from . import timing
from .case import Case
from .inputs import LORA_NAMES
from .presets import PARAM_NAMES, SFT_PARAMS

LEARNING_RATE = 1e-6  # hundreds of steps change the numbers little, so that all steps cost the same


def step(case: Case) -> None:
    """One step; the LoRA tensors are changed in place."""
    case.forward(save=True)
    _, gradients = case.backward()
    for name, tensor in zip(LORA_NAMES, case.lora, strict=True):
        tensor.add_(gradients[f"grad_{name}"], alpha=-LEARNING_RATE)
    case.layer.update_lora_weights()


class TrainingStep(timing.TimedCase):
    """What a training loop does per layer."""

    params = SFT_PARAMS
    param_names = PARAM_NAMES

    def time_training_step(self, method, preset):
        step(self.case)
