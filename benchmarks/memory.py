"""Memory: peaks of one forward and of one training step, and what a loaded weight takes.

Peaks are of the whole process, Python and PyTorch in it, but not of loading: the source of the
weights is freed and the kernel's mark of the peak set back before the call. Linux only, as all of
the project.
"""

import ctypes
from pathlib import Path

from .case import Case, finite
from .presets import PARAM_NAMES, PARAMS, SFT_PARAMS
from .training_step import step


def give_back_free_memory() -> None:
    """Return what free() keeps for later to the system."""
    ctypes.CDLL(None).malloc_trim(0)


def forget_the_peak() -> None:
    """Set this process's peak of resident memory back to what is resident now.

    See clear_refs in proc(5).
    """
    Path("/proc/self/clear_refs").write_text("5")


def anonymous_bytes() -> int:
    """Resident memory that is no file's: a library's code that is read in late does not count."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon")


class Memory:
    """A loaded layer whose source of weights is gone."""

    params = PARAMS
    param_names = PARAM_NAMES
    version = "2"

    def setup(self, method, preset):
        self.case = Case(method, preset)
        give_back_free_memory()
        before = anonymous_bytes()
        self.case.load()
        give_back_free_memory()
        self.resident = anonymous_bytes() - before
        self.case.weights = None
        give_back_free_memory()
        forget_the_peak()

    def track_bytes_per_weight(self, method, preset):
        return finite(self.resident / self.case.shape.weights, "bytes per weight")

    track_bytes_per_weight.unit = "bytes"

    def peakmem_forward(self, method, preset):
        self.case.forward()

    def peakmem_training_step(self, method, preset):
        step(self.case)

    peakmem_training_step.params = SFT_PARAMS
