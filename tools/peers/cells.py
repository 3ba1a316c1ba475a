"""The table's cells: every method on every shape, forward and both passes, beside its peers."""

import gc
from dataclasses import replace
from statistics import median

from benchmarks.case import Case, native
from benchmarks.inputs import make_lora
from benchmarks.memory import give_back_free_memory
from benchmarks.presets import PRESETS, SFT_METHODS
from benchmarks.roofline import PASSES, bandwidth, peak
from benchmarks.units import UNITS
from kt_kernel.methods import METHODS
from kt_kernel.reference import compute_relative_error

from .kt_kernel_peer import KtKernel, PeerError
from .pytorch import BASELINES
from .turns import SLOW, take_turns

SHAPES = ("S1", "S2", "S3")
BANDWIDTH_MEBIBYTES = 1024  # several times what the caches of a few cores hold


def measure_limits(found: dict[str, float]) -> None:
    """Measure the machine's own limits; `found` keeps the best of all times it was called with.

    Keys: "bandwidth" in bytes per second; kinds of products in operations per second.
    """
    threads = native().cpu_count()
    new = {products: peak(products, threads) for products in UNITS}
    new["bandwidth"] = bandwidth(threads, BANDWIDTH_MEBIBYTES)
    found.update({name: max(value, found.get(name, 0.0)) for name, value in new.items()})


def step(case: Case) -> None:
    """Forward and backward."""
    case.forward(save=True)
    case.backward()


def passes_of(case: Case, passes: str):
    """The call that computes them."""
    return case.forward if passes == "forward" else lambda: step(case)


def measure_shape(shape: str, rounds: int, kt: KtKernel | None, told) -> list[dict]:
    """Cells of one shape, times in seconds; `told` takes a line on what a peer cannot do."""
    first = Case(SFT_METHODS[0], PRESETS[shape])
    ours = {method: first.another(method).load() for method in SFT_METHODS}
    cells = _against_torch(shape, first, ours, rounds, told)
    if kt is not None:
        _against_kt(shape, cells, ours, rounds, kt, told)
    return list(cells.values())


def _against_torch(shape, first, ours, rounds, told):
    """Our methods and all of PyTorch's in the same turns."""
    peers = {name: make(first) for name, make in BASELINES.items()}
    cells = {}
    for passes in PASSES:
        functions = {method: passes_of(case, passes) for method, case in ours.items()}
        for name, peer in peers.items():
            functions[name] = peer.forward if passes == "forward" else peer.forward_backward
        times = take_turns(functions, rounds, f"{shape} {passes}: ours and PyTorch's")
        seconds = {name: median(values) for name, values in times.items()}
        if once := ", ".join(name for name, values in times.items() if len(values) < rounds):
            told(f"{shape}, {passes}: called once, as a call took {SLOW:g} s or more: {once}")
        for method in ours:
            cells[method, passes] = {
                "shape": shape,
                "passes": passes,
                "method": method,
                "seconds": seconds[method],
                "torch": {name: seconds[name] for name in peers},
            }
    del peers, functions
    gc.collect()
    give_back_free_memory()
    return cells


def _against_kt(shape, cells, ours, rounds, kt, told):
    """Each method and kt-kernel's class for it in turns of their own: all would not fit."""
    for method, case in ours.items():
        try:
            about = kt.load(method, case.shape, native().cpu_count())
            error, limit = _error(case, kt, about), METHODS[method].forward_limit
            if not error < limit:
                raise PeerError(f"{about['class']} errs by {error:.1%}, the limit is {limit:.0%}")
            for passes in PASSES if about["trains"] else PASSES[:1]:
                pair = {
                    "ours": passes_of(case, passes),
                    "theirs": lambda passes=passes: kt.seconds(passes),
                }
                times = take_turns(pair, rounds, f"{shape} {passes}: {method} and kt-kernel")
                seconds = {name: median(values) for name, values in times.items()}
                cells[method, passes]["kt"] = seconds | about
        except PeerError as problem:
            told(f"{shape}, {method}: {problem}")


def _error(case, kt, about):
    """Of its output against ours in bf16: who computes something else is no peer."""
    kt.seconds("forward")
    shape = replace(case.shape, lora_rank=about["rank"] or case.shape.lora_rank)
    ours = case.another(SFT_METHODS[0] if about["trains"] else "AMXBF16")
    if about["trains"]:
        ours.shape, ours.lora = shape, make_lora(shape)
        ours.layer = ours.make_layer()
    wanted = ours.load().forward()
    return compute_relative_error(kt.output(wanted).float(), wanted.float())
