"""Forwards of one and of four tokens, as in decoding: the time above that of reading weights."""

from dataclasses import replace
from statistics import median

from benchmarks.case import Case
from benchmarks.inputs import make_batch
from benchmarks.presets import FORMATS, PRESETS, SFT_METHODS

from .finding import Finding
from .turns import take_turns

SHAPES = ("S1", "S2")
TOKENS = (1, 4)
ABOVE = 30  # microseconds
SECONDS = 1.0  # the calls are short: many of them


def measure(rounds: int, bandwidth: float) -> list[Finding]:
    """Milliseconds of each call, and microseconds above bytes / bandwidth (bytes per second)."""
    found = []
    for shape in SHAPES:
        first = Case(SFT_METHODS[0], PRESETS[shape])
        cases = {method: first.another(method).load() for method in SFT_METHODS}
        for tokens in TOKENS:
            batch = make_batch(replace(first.shape, tokens=tokens))
            for case in cases.values():
                case.batch = batch
            calls = {method: case.forward for method, case in cases.items()}
            where = f"{shape}, {tokens} token{'s' if tokens > 1 else ''}"
            times = take_turns(calls, rounds, f"{where}: decoding", pause=0, seconds=SECONDS)
            hit = batch.expert_ids.unique().numel() / first.shape.experts
            for method, values in times.items():
                held = first.shape.weights * hit * FORMATS[method].bytes_per_weight
                seconds = median(values)
                above = 1e6 * (seconds - held / bandwidth)
                found += [
                    Finding("time of a call", where, method, 1e3 * seconds, "ms"),
                    Finding("above bytes / bandwidth", where, method, above, "us", ABOVE),
                ]
    return found
