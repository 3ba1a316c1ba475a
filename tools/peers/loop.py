"""A training loop: what sharing the cores with PyTorch's threads costs, and idling."""

import time

import torch
from torch.nn.functional import layer_norm, linear, softmax

from benchmarks.case import Case
from benchmarks.presets import PRESETS, SFT_METHODS

from .cells import step
from .finding import Finding
from .turns import ratio, take_turns

SHAPE = "S1"
STEPS = 5  # in one sample
LOSS = 5  # percent
IDLE = 1  # milliseconds of CPU time in a second: the clock's own steps and the interpreter's


class Attention:
    """What a model does between two such layers, in float32: PyTorch's threads at work."""

    def __init__(self, case: Case) -> None:
        hidden = case.shape.hidden
        self.x = case.batch.hidden_states.float()
        self.weight = torch.randn(hidden, hidden) * hidden**-0.5

    def run(self) -> None:
        """Three projections, the scores of all tokens, an output and its norm."""
        q, k, v = (linear(self.x, self.weight) for _ in range(3))
        mixed = softmax(q @ k.T * q.shape[1] ** -0.5, -1) @ v
        layer_norm(linear(mixed, self.weight) + self.x, [self.x.shape[1]])


def measure(rounds: int) -> list[Finding]:
    """Percent by which the loop is slower than its parts alone, and CPU time of a sleep."""
    first = Case(SFT_METHODS[0], PRESETS[SHAPE])
    attention = Attention(first)
    found = []
    for method in SFT_METHODS:
        case = first.another(method).load()

        def torch_alone():
            for _ in range(STEPS):
                attention.run()
                attention.run()

        def layer_alone(case=case):
            for _ in range(STEPS):
                step(case)

        def both(case=case):
            for _ in range(STEPS):
                attention.run()
                case.forward(save=True)
                attention.run()
                case.backward()

        calls = {"torch": torch_alone, "layer": layer_alone, "both": both}
        times = take_turns(calls, rounds, f"{SHAPE}: a training loop with {method}")
        # One may be so slow that it was called once.
        parts = [sum(alone) for alone in zip(times["torch"], times["layer"], strict=False)]
        loss = 100 * (ratio(times["both"], parts) - 1)
        found.append(Finding("loop over its parts alone", SHAPE, method, loss, "%", LOSS))
        step(case)
        time.sleep(0.1)  # PyTorch's threads go to sleep, too
        found.append(Finding("CPU time of an idle second", SHAPE, method, idle(), "ms", IDLE))
    return found


def idle() -> float:
    """Milliseconds that all threads of this process compute while it sleeps for a second."""
    before = time.process_time()
    time.sleep(1)
    return 1e3 * (time.process_time() - before)
