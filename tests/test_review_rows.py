"""Which rows a review measures: the committed manifest is what the suites define."""

import pytest

from benchmarks.presets import SFT_METHODS
from tools.review import names, rows


def test_the_manifest_is_what_the_suites_define():
    committed = rows.MANIFEST.read_text().splitlines()
    assert committed == rows.defined(), "python -m tools.review.rows writes it"
    assert len(set(committed)) == len(committed)


def test_every_method_is_in_every_section():
    found = {(name.section, name.method) for name in rows.expected()}
    for section in names.SECTIONS:
        for method in SFT_METHODS:
            assert (section, method) in found


def test_what_has_a_ceiling_at_full_size_is_measured_there():
    at_s1 = {(name.suite, name.metric) for name in rows.expected() if name.preset == "S1"}
    assert ("Memory", "track_bytes_per_weight") in at_s1
    assert ("RelativeError", "track_kernel_error") in at_s1
    assert ("RelativeError", "track_grad_up_lora_b") in at_s1


def test_a_name_and_its_row():
    name = names.parse("memory.Memory.peakmem_forward('AMXINT4_SFT', 'quick-memory')")
    assert (name.section, name.method, name.preset) == ("bytes", "AMXINT4_SFT", "quick-memory")
    row = name.row(1.0, 2.0)
    assert (row.suite, row.metric, row.unit) == ("Memory", "peakmem_forward", "bytes")
    assert (row.param("method"), row.param("preset")) == ("AMXINT4_SFT", "quick-memory")
    assert [point.value for point in row.points] == [1.0, 2.0]


@pytest.mark.parametrize("wrong", ["", "memory.Memory.peakmem", "a.Sweep.time_a('M', 'p')"])
def test_a_name_that_is_none(wrong):
    with pytest.raises(ValueError, match=r"row: got .*, wanted module\.Suite\.metric"):
        names.parse(wrong)
