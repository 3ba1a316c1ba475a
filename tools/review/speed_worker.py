"""Times calls of one side's layers whenever it is asked: `speed_worker FD PACKAGE`."""

import sys
from multiprocessing.connection import Connection

from benchmarks.case import Case, methods
from benchmarks.control import product
from benchmarks.timing import clock
from benchmarks.training_step import step
from tools.child import serve

from .suites_worker import check_package

CONTROL = "PyTorch"


class Preset:
    """The layers of one preset, all over the same weights."""

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
        if method not in self.cases:
            self.cases[method] = self.first.another(method).load()
        return self.cases[method]

    def function(self, metric, method):
        """What is timed."""
        if method == CONTROL:
            return product(self.first.shape, self.first.weights[0])
        case = self.case(method)
        return case.forward if metric == "time_forward" else lambda: step(case)


class Speed:
    """Answers requests."""

    def __init__(self):
        self.presets = {}
        self.functions = {}

    def time(self, metric, method, preset):
        """Seconds of a call, of the second where it is the first; None where a method lacks."""
        row = metric, method, preset
        if row not in self.functions:
            layers = self.presets.setdefault(preset, Preset(preset))
            try:
                function = layers.function(metric, method)
            except NotImplementedError:
                return None
            function()
            self.functions[row] = function
        return clock(self.functions[row])


def main():
    """Answer until the other end is closed."""
    connection = Connection(int(sys.argv[1]))
    check_package(sys.argv[2])
    serve(connection, Speed().time)


if __name__ == "__main__":
    main()
