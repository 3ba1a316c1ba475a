"""Fixtures that every test shares, and which extension and instruction sets are under test."""

import pytest

from kt_kernel._native import ext

SUPPORTED = [isa["name"] for isa in ext.isas() if isa["supported"]]


def pytest_report_header() -> str:
    return f"extension: {ext.__file__}, instruction sets: {', '.join(SUPPORTED)}"


@pytest.fixture(params=SUPPORTED)
def isa(request):
    """Each instruction set that runs here; layers made in the test are made for it."""
    ext.force_isa(request.param)
    yield request.param
    ext.force_isa("")
