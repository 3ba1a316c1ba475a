"""Results of `make peers` made up for tests: two shapes, every method, both passes."""

from benchmarks.presets import SFT_METHODS
from benchmarks.roofline import PASSES

LIMITS = {
    "bf16": 4e11,
    "int8": 16e11,
    "float32": 3.9e11,
    "bandwidth": 2e10,
}
MACHINE = {
    "cpu": "Some CPU",
    "family": "6",
    "model": "1",
    "kind": "",
    "isa": "avx2",
    "threads": 2,
    "torch": "2",
    "commit": "abc",
    "date": "2026-01-02 03:04 UTC",
}


def made_up(kind: str = "", shapes=("S1", "S2")) -> dict:
    """Every cell takes a second; PyTorch takes 2 and 0.5, kt-kernel 3 where it is INT8."""
    cells = []
    for shape in shapes:
        for passes in PASSES:
            for method in SFT_METHODS:
                cell = {"shape": shape, "passes": passes, "method": method, "seconds": 1.0}
                cell["torch"] = {"_grouped_mm bf16": 2.0, "F.linear f32": 0.5}
                if method == "AMXINT8_SFT":
                    cell["kt"] = {"ours": 1.0, "theirs": 3.0, "class": "C", "trains": True}
                cells.append(cell)
    machine = MACHINE | {"kind": kind}
    results = {"machine": machine, "limits": LIMITS, "notes": [], "cells": cells}
    return results | {"sweep": [], "findings": [], "profile": []}
