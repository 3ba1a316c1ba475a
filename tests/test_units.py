"""The machine's compute roof, which benchmarks/units.cpp measures apart from the package."""

import pytest
import torch

from benchmarks import timing, units

FLAGS = units.cpu_flags()
ALL = {unit.name: unit for kind in units.UNITS.values() for unit in kind}
HERE = [name for name, unit in ALL.items() if unit.flags <= FLAGS]


@pytest.mark.parametrize("name", HERE)
def test_every_unit_that_this_cpu_has_computes(name):
    """Between a product every two cycles at 1 GHz and two in each at 6; a tile takes 16."""
    unit = ALL[name]
    a_cycle = 2 * unit.products / (16 if name.endswith("tiles") else 1)
    assert a_cycle * 0.5e9 < units.rate(unit, 1, 5) < a_cycle * 12e9


def test_two_threads_do_more_than_one():
    unit = units.UNITS["float32"][-1]  # the best of many moments: other tests run beside
    one = max(units.rate(unit, 1, 5) for _ in range(20))
    assert max(units.rate(unit, 2, 5) for _ in range(20)) > 1.2 * one


def test_a_product_of_matrices_stays_below_the_roof_and_comes_near_it():
    """PyTorch's, in float32: another's kernels, so that both can't err alike."""
    a, b = torch.ones(512, 1024), torch.ones(1024, 512)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        a @ b
        seconds = min(timing.clock(lambda: a @ b) for _ in range(20))
    finally:
        torch.set_num_threads(threads)
    reached = 2 * 512 * 512 * 1024 / seconds
    roof = max(units.peak("float32", 1, 2) for _ in range(20))
    assert 0.2 < reached / roof < 1.1


@pytest.mark.parametrize("kind", units.UNITS)
def test_the_roof_is_the_fastest_units_that_cpu_and_kernel_allow(monkeypatch, kind):
    chosen, refused = [], set()

    def rate(unit, threads, milliseconds):
        if unit.name in refused:
            return 0
        chosen.append(unit.name)
        return 1.0

    monkeypatch.setattr(units, "rate", rate)
    has_all = frozenset().union(*(unit.flags for unit in ALL.values()))
    monkeypatch.setattr(units, "cpu_flags", lambda: has_all)
    assert units.peak(kind, 1) == 1
    refused.add(units.UNITS[kind][0].name)
    assert units.peak(kind, 1) == 1
    monkeypatch.setattr(units, "cpu_flags", frozenset)
    assert units.peak(kind, 1) == 1
    names = [unit.name for unit in units.UNITS[kind]]
    assert chosen == [names[0], names[1], names[-1]]
