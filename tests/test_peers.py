"""tools.peers: the arithmetic, the tables and the pictures, on results that are made up."""

import json
import threading
import time
from xml.etree import ElementTree

import pytest
import torch
from fake_clock import FakeClock
from peer_check import check_peer
from peers_results import LIMITS, made_up

from benchmarks import case, inputs, presets
from benchmarks.roofline import PASSES
from tools import files
from tools.peers import __main__ as peers
from tools.peers import loop, machine, picture, pytorch, results, routing, sweep, table, turns
from tools.peers.finding import Finding
from tools.peers.targets import TARGETS, target

BF16, INT8 = presets.SFT_METHODS[:2]
TINY = presets.Preset(experts=3, hidden=72, intermediate=40, top_k=2, tokens=6, lora_rank=8)


def lines_of(text, *parts):
    return [line for line in text.splitlines() if all(part in line for part in parts)]


def columns(line):
    return [column.strip() for column in line.strip("|").split("|")]


@pytest.mark.parametrize(
    ("shape", "passes", "bound"),
    [
        # S1 by hand: 768 pairs, 3 x 2048 x 1408 multiply-adds each, LoRA's 3 x 16 x 3456 beside.
        ("S1", "forward", 2 * 768 * (3 * 2048 * 1408 + 3 * 16 * 3456) / 16e11),
        ("S2", "forward", 32 * 3 * 7168 * 2048 / 2e10),
        ("S2", "forward+backward", 2 * 32 * 3 * 7168 * 2048 / 2e10),
    ],
)
def test_a_fraction_is_the_larger_bound_over_the_time(shape, passes, bound):
    cell = {"shape": shape, "passes": passes, "method": INT8, "seconds": 0.5}
    assert table.fraction(cell, LIMITS) == pytest.approx(bound / 0.5)


@pytest.mark.parametrize(
    ("vendor", "family", "flags", "kind"),
    [
        ("AuthenticAMD", "26", "avx512f", "Zen 5"),
        ("AuthenticAMD", "25", "fpu avx512f", "Zen 4"),
        ("AuthenticAMD", "25", "fpu avx2", ""),
        ("GenuineIntel", "6", "avx512f", ""),
        ("GenuineIntel", "26", "avx512f", ""),
    ],
)
def test_the_kind_of_machine_follows_from_the_first_processor(vendor, family, flags, kind):
    first = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nflags\t\t: {flags}\n"
    processor = machine.first_processor(first + "\nprocessor\t: 1\nvendor_id\t: other\n")
    assert machine.kind(processor) == kind


def test_targets_are_of_this_kind_shape_method_and_passes():
    assert target("Zen 5", "S1", BF16, "forward") == 0.74
    assert target("Zen 5", "S3", INT8, "forward+backward") == 0.70
    assert target("Zen 4", "S2", "AMXINT4_KGroup_SFT", "forward+backward") == 0.76
    assert target("", "S1", BF16, "forward") is None
    assert target("Zen 5", "tiny", BF16, "forward") is None


def test_the_table_marks_what_is_slower_than_a_peer_or_under_its_target():
    told = made_up("Zen 5")
    cell = told["cells"][1]  # S1, forward, INT8: reaches all of 1 target and no peer is faster
    cell["seconds"] = table.fraction(cell, LIMITS) / 0.61
    cell["torch"] = dict.fromkeys(cell["torch"], 10 * cell["seconds"])
    text = table.cells_table(told)
    (good,) = lines_of(text, "S1", "forward ", INT8)
    assert columns(good)[4:] == ["0.61", "0.60", "10.00", "10.00", "3.00"]
    (bad,) = lines_of(text, "S1", "forward ", BF16)
    fraction = f"{table.fraction(told['cells'][0], LIMITS):.2f}"
    assert columns(bad)[4:] == [f"{fraction} !", "0.74", "2.00", "0.50 !", "-"]
    cell["seconds"] *= 1.03
    (worse,) = lines_of(table.cells_table(told), "S1", "forward ", INT8)
    assert columns(worse)[4] == "0.59 !"


def test_a_machine_without_targets_is_told():
    assert "no table of targets for this CPU, only for Zen 5 and Zen 4" in peers.report(made_up())
    assert "no table of targets" not in peers.report(made_up("Zen 4"))
    assert set(TARGETS) == {"Zen 5", "Zen 4"}


def test_the_summary_has_ms_and_percents():
    told = made_up()
    (line,) = lines_of(table.summary_table(told), "S2, forward ")
    percent = f"{table.fraction(told['cells'][8], LIMITS):.0%}"
    assert columns(line)[1] == f"1,000 ({percent})"
    assert columns(line)[5:] == ["2,000", "500"]


@pytest.mark.parametrize(
    ("value", "bar", "at_least", "missed"),
    [
        (2, 1, False, True),
        (1, 1, False, False),
        (2, 1, True, False),
        (0.9, 1, True, True),
        (9, None, False, False),
    ],
)
def test_a_bar_is_missed_on_its_wrong_side(value, bar, at_least, missed):
    found = Finding("what", "S1", BF16, value, "x", bar, at_least)
    assert found.missed == missed
    (line,) = lines_of(table.findings_table([vars(found)]), "what", "S1")
    assert line.count("!") == missed


def test_results_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "results.json"
    results.write_results(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        results.write_results(path, {"a": float("nan")})

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        results.write_results(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [each.name for each in path.parent.iterdir()] == ["results.json"]


def swept(change=None):
    """Points whose time grows with the tokens, as it should; `change` maps tokens to a factor."""
    return [
        {"method": method, "passes": passes, "tokens": n, "seconds": (1 + n) * factor}
        for method in presets.SFT_METHODS
        for passes in PASSES
        for n in (1, 2, 4, 8)
        for factor in [(change or {}).get(n, 1) if (method, passes) == (INT8, "forward") else 1]
    ]


def test_cliffs_are_found_on_either_side():
    assert sweep.cliffs(swept()) == []
    slow_from_4 = sweep.cliffs(swept({4: 1.8, 8: 1.8}))
    assert slow_from_4 == [f"{INT8}, forward: a token of 4 costs 1.50 of one of 2"]
    slow_at_2 = sweep.cliffs(swept({2: 2}))
    assert slow_at_2[1:] == [f"{INT8}, forward: 2 tokens take 1.20 of 4's time"]


def test_turns_alternate_after_a_warm_up_and_may_time_themselves(monkeypatch):
    monkeypatch.setattr(turns, "WARM_UP", 0)
    calls = []
    functions = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b") or 0.7}
    times = turns.take_turns(functions, 3, "test", pause=0)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert times["b"] == [0.7] * 3
    assert len(times["a"]) == 3
    assert all(0 < value < 1 for value in times["a"])


def test_who_takes_seconds_is_called_once(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr(turns, "perf_counter", clock)
    functions = {"slow": clock.takes("slow", 30.0), "fast": clock.takes("fast", 0.25)}
    assert turns.take_turns(functions, 3, "test", pause=0) == {"slow": [30.0], "fast": [0.25] * 3}
    assert clock.calls == ["slow"] + ["fast"] * 4
    del functions["fast"]
    assert turns.take_turns(functions, 3, "test", pause=0) == {"slow": [30.0]}


def test_a_ratio_is_of_each_turn_and_of_medians_for_who_was_called_once():
    slower_from_the_second_turn_on = [1.1, 8.8, 8.8]
    assert turns.ratio(slower_from_the_second_turn_on, [1.0, 1.0, 8.0]) == pytest.approx(1.1)
    assert turns.ratio([9.0], [1.0, 3.0, 2.0]) == 4.5
    assert turns.ratio([6.0], [2.0]) == 3.0


def test_uneven_routings_have_as_many_pairs_and_no_token_an_expert_twice():
    shape = presets.PRESETS["S1"]
    balanced = inputs.make_batch(shape).expert_ids
    for name, ids in routing.routings(shape).items():
        assert ids.shape == balanced.shape
        assert ids.dtype == balanced.dtype
        assert all(row.unique().numel() == shape.top_k for row in ids)
        counts = torch.bincount(ids.flatten(), minlength=shape.experts)
        if name == "one hot expert":
            assert counts[0] == shape.tokens
        assert counts.max() > 2 * shape.tokens * shape.top_k / shape.experts


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_linear_by_expert_computes_the_same_layer(dtype):
    check_peer(pytorch.LinearByExpert, case.Case(BF16, TINY), dtype)


def test_an_idle_second_shows_a_thread_that_spins():
    stop = time.perf_counter() + 0.5

    def spin():
        while time.perf_counter() < stop:
            pass

    spinning = threading.Thread(target=spin)
    spinning.start()
    assert loop.idle() > 50
    spinning.join()


def test_ceilings_that_lie_together_share_a_line():
    assert picture.ceilings(LIMITS) == {"int8": 16e11, "bf16, float32": 4e11}
    apart = picture.ceilings(LIMITS | {"bf16": 8e11})
    assert apart == {"int8": 16e11, "bf16": 8e11, "float32": 3.9e11}


def test_the_roofline_has_every_point_and_limit_and_is_the_same_again():
    told = made_up()
    text = picture.roofline_svg(told)
    root = ElementTree.fromstring(text)
    words = " ".join("".join(each.itertext()) for each in root.iter() if each.tag.endswith("text"))
    for word in ("products: 1,600", "bf16, float32", "products: 400", "memory: 20 GB/s"):
        assert word in words
    for word in (*presets.SFT_METHODS, "S1", "S2", "Some CPU", "2026-01-02", "kt-kernel"):
        assert word in words
    points = {each.get("id") for each in root.iter()}
    for passes in PASSES:
        for shape in ("S1", "S2"):
            for who in ("PyTorch", f"kt-kernel-{INT8}", *presets.SFT_METHODS):
                assert f"{who}-{shape}-{passes}" in points
    assert f"kt-kernel-{BF16}-S1-forward" not in points
    assert picture.roofline_svg(told) == text
    told["cells"][0]["seconds"] *= 2
    assert picture.roofline_svg(told) != text
