"""Instructions counted by callgrind, on the extension of this tree."""

import shutil

import pytest

from tools.review import instructions, names
from tools.review.builds import ROOT, Build

needs_valgrind = pytest.mark.skipif(
    not shutil.which("valgrind"), reason="valgrind is missing: apt-get install valgrind"
)


def name(metric, method="AMXINT8_SFT", preset="tiny-memory"):
    return names.parse(f"review.Instructions.{metric}({method!r}, {preset!r})")


ROWS = [name(metric) for metric in instructions.METRICS]


def count(rows):
    ticks = []
    found = instructions.measure(Build("HEAD", ROOT), rows, lambda: ticks.append(1))
    assert len(ticks) == len(rows)
    assert list(found) == [row.whole for row in rows]
    return list(found.values())


@needs_valgrind
def test_counts_repeat_and_belong_to_their_steps(monkeypatch):
    load, forward, step = (outcome.value for outcome in count(ROWS))
    assert load > step > 2 * forward > 1e5
    # More tokens: more products in both passes, and the same weights to load.
    experts, hidden, inter, tokens = instructions.SHAPES["tiny-memory"]
    monkeypatch.setitem(instructions.SHAPES, "tiny-memory", (experts, hidden, inter, 4 * tokens))
    more = [outcome.value for outcome in count(ROWS)]
    assert more[0] == pytest.approx(load, rel=1e-3)
    assert more[1] > 1.5 * forward
    assert more[2] > 1.5 * step


@needs_valgrind
def test_what_a_commit_lacks_or_refuses(monkeypatch):
    monkeypatch.setitem(instructions.FORMATS, "AMXINT4_SFT", type("Format", (), {"name": "int3"}))
    monkeypatch.setitem(instructions.SHAPES, "tiny-compute", (0, 256, 256, 4))
    rows = [name("count_load", "AMXINT4_SFT"), name("count_load", preset="tiny-compute"), ROWS[0]]
    lacking, refused, fine = count(rows)
    assert lacking.why == "not in this commit"
    assert refused.value is None
    assert "num_experts" in refused.why
    assert fine.value > 1e5


def test_without_valgrind_the_rows_name_its_package(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert {outcome.why for outcome in count(ROWS)} == {instructions.MISSING}
    assert {outcome.value for outcome in count(ROWS)} == {None}


@needs_valgrind
def test_an_extension_that_does_not_load(tmp_path):
    (tmp_path / "kt_kernel").mkdir()
    (tmp_path / "kt_kernel" / "kt_kernel_ext.so").write_text("no library")
    found = instructions.measure(Build("HEAD", tmp_path), ROWS, lambda: None)
    for outcome in found.values():
        assert outcome.value is None
        assert outcome.why.startswith("counting failed: ImportError: ")
