"""What threads bring: one against all cores, and more threads than there are cores."""

from benchmarks.case import Case, native
from benchmarks.presets import PRESETS, SFT_METHODS
from benchmarks.roofline import PASSES

from .cells import passes_of
from .finding import Finding
from .turns import ratio, take_turns

SHAPES = ("S1", "S3")  # arithmetic bound: memory's bandwidth does not grow with the cores
PER_CORE = 0.925  # of each core's worth: 1.85 times with two
CROWD = 4  # threads asked for per core


def measure(rounds: int) -> list[Finding]:
    """Speed-ups over one thread, and the cost of a crowd."""
    cores = native().cpu_count()
    found = []
    for shape in SHAPES:
        first = Case(SFT_METHODS[0], PRESETS[shape])
        for method in SFT_METHODS:
            layers = {
                threads: first.another(method, cpuinfer_threads=threads).load()
                for threads in {1, cores, CROWD * cores}
            }
            for passes in PASSES:
                calls = {str(n): passes_of(case, passes) for n, case in layers.items()}
                times = take_turns(calls, rounds, f"{shape} {passes}: threads of {method}")
                one, all_cores, crowd = (times[str(n)] for n in (1, cores, CROWD * cores))
                where = f"{shape} {passes}"
                if cores > 1:
                    bar = PER_CORE * cores
                    gain, subject = ratio(one, all_cores), f"{cores} threads over 1"
                    found.append(Finding(subject, where, method, gain, "x", bar, at_least=True))
                subject = f"time of {CROWD * cores} threads over {cores}"
                found.append(Finding(subject, where, method, ratio(crowd, all_cores), "x"))
    return found
