"""Times one side's layers whenever it is asked: `speed_worker FD PACKAGE`.

Every time stands beside that of PyTorch's product of the same rows with the same experts' weights
in float32, called in turns with it: what slows the machine slows both.
"""

import sys
from multiprocessing.connection import Connection

import torch

from benchmarks.case import Case, methods
from benchmarks.timing import interleave
from benchmarks.training_step import step
from tools.child import serve

from .suites_worker import check_package

CONTROL = "PyTorch"


class Torch:
    """A product of every expert's rows and weights, which no commit of ours touches."""

    def __init__(self, case, weights):
        rows = case.shape.tokens * case.shape.top_k // case.shape.experts
        self.weights = weights.float().transpose(1, 2)
        generator = torch.Generator().manual_seed(1)
        size = weights.shape[0], rows, weights.shape[2]
        self.x = torch.randn(size, generator=generator)

    def run(self):
        """All experts."""
        torch.bmm(self.x, self.weights)


class Preset:
    """The layers of one preset, all over the same weights; PyTorch's products of gate and down."""

    def __init__(self, preset):
        self.first = None
        self.preset = preset
        self.cases = {}

    def case(self, method):
        """The method's loaded layer; NotImplementedError where this commit lacks it."""
        if method not in methods():
            raise NotImplementedError(method)
        if self.first is None:
            self.first = Case(method, self.preset)
            gate, _, down = self.first.weights
            self.yardstick, self.control = Torch(self.first, gate), Torch(self.first, down)
        if method not in self.cases:
            self.cases[method] = self.first.another(method).load()
        return self.cases[method]

    def function(self, metric, method):
        """What is timed."""
        if method == CONTROL:
            return self.control.run
        case = self.case(method)
        return case.forward if metric == "time_forward" else lambda: step(case)


class Speed:
    """Answers requests."""

    def __init__(self):
        self.presets = {}

    def time(self, metric, method, preset, seconds):
        """Median seconds of a call and of the yardstick; None where the commit lacks the method."""
        layers = self.presets.setdefault(preset, Preset(preset))
        try:
            function = layers.function(metric, method)
        except NotImplementedError:
            return None
        return tuple(interleave([function, layers.yardstick.run], seconds, at_least=3))


def main():
    """Answer until the other end is closed."""
    connection = Connection(int(sys.argv[1]))
    check_package(sys.argv[2])
    serve(connection, Speed().time)


if __name__ == "__main__":
    main()
