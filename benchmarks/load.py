"""How long until a layer can be used: importing the package, and loading weights from tensors."""

import subprocess
import sys

from .case import Case, methods
from .inputs import stacked
from .memory import forget_the_peak, give_back_free_memory
from .presets import PARAM_NAMES, SFT_PARAMS


class Import:
    """A fresh interpreter each time, its start included: a second import costs nothing."""

    params = (("import kt_kernel", "from kt_kernel import KTMoEWrapper"),)
    param_names = ("statement",)
    version = "2"
    number = 1
    repeat = (4, 5, 1.0)
    warmup_time = 0

    def setup(self, statement):
        methods()  # n/a where the package has no layer yet

    def time_import(self, statement):
        subprocess.run([sys.executable, "-c", statement], check=True)


class Load:
    """Loading weights from tensors."""

    params = SFT_PARAMS
    param_names = PARAM_NAMES
    version = "3"
    number = 1
    repeat = (3, 15, 1.0)
    warmup_time = 0.2
    case = None

    def setup(self, method, preset):
        if self.case is None:
            self.case = Case(method, preset)
            self.tensors, self.case.weights = stacked(self.case.weights), None
            give_back_free_memory()
            forget_the_peak()

    def time_load_weights(self, method, preset):
        """Into a new layer, LoRA not included."""
        self.case.make_layer().load_weights_from_tensors(*self.tensors)

    def peakmem_load_weights(self, method, preset):
        """The source is in it: the peak above it is what loading itself takes."""
        self.case.make_layer().load_weights_from_tensors(*self.tensors)

    peakmem_load_weights.version = "4"
