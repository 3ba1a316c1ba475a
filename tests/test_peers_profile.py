"""tools.peers' profile: functions by kind of work, and perf replaced by one that answers alike."""

import os
import stat

import pytest
from peers_results import made_up

from benchmarks import presets
from tools.peers import __main__ as peers
from tools.peers import picture, profile, table

BF16, INT8, *_ = presets.SFT_METHODS
TINY = presets.Preset(experts=3, hidden=256, intermediate=128, top_k=2, tokens=6, lora_rank=8)
TILE = (
    "void kt::(anonymous namespace)::integer_tile<kt::(anonymous namespace)::Avx2Words, 6, 1>(kt::"
    "(anonymous namespace)::TileRows<kt::(anonymous namespace)::Avx2Words>, float const*, int)"
)
FLOATS = "void kt::(anonymous namespace)::Avx2::tile<6, 1>(float const*, int, float*, int)"
GEMM = "void kt::(anonymous namespace)::gemm<kt::Avx2, kt::{}, (kt::Axis)0, kt::{}>(int, int)"


@pytest.mark.parametrize(
    ("symbol", "with_integers", "with_bf16"),
    [
        (TILE, "products", "products"),
        (FLOATS, "LoRA", "products"),
        ("void kt::tiles<kt::Avx2>(int) [clone .constprop.1]", "LoRA", "products"),
        ("void kt::Avx2FewRows<kt::Avx2Bytes>::add_outputs<kt::INT4, 1>(int)", "products", ""),
        ("void kt::Avx2FewRows<kt::Avx2Words>::direct_n<kt::INT8, 4>(int)", "products", ""),
        ("void kt::Avx2::direct_k<4>(std::byte const*)", "products", "products"),
        ("void kt::VnniWith<kt::Vbmi>::direct_rows<kt::INT8>(int)", "products", ""),
        (GEMM.format("Unpacked", "RowMajor"), "LoRA", "LoRA"),
        (GEMM.format("BF16", "Packed"), "panels", "panels"),
        ("void kt::gemm_integer<kt::Avx2, kt::INT8, (kt::Axis)1>(int)", "panels", ""),
        ("void kt::Amx::gemm<kt::INT4, (kt::Axis)0, kt::Packed>(int)", "products", ""),
        ("void kt::Amx::products<kt::INT4, kt::Unpacking<kt::X>, kt::Packed>(int)", "products", ""),
        ("void kt::Amx::products<kt::Unpacked, (kt::Axis)0, kt::RowMajor>(int)", "LoRA", "LoRA"),
        ("void kt::tile_block<3, 1, kt::UnpackedRows<kt::Unpacked> >(int)", "LoRA", "LoRA"),
        ("void kt::tile_block<3, 1, kt::Unpacking<kt::X> >(int)", "products", "products"),
        ("kt::CodesUnpacker<kt::INT8, (kt::Axis)1>::unpack(kt::Packed const&)", "panels", ""),
        ("void kt::pack_for_codes<kt::INT8, (kt::Axis)1>(kt::Rows const&)", "panels", ""),
        ("void kt::outer<kt::Avx2>(int)", "LoRA", "LoRA"),
        ("void kt::round_rows<kt::Avx2, kt::INT8, (kt::Axis)1>(int)", "rounding", ""),
        ("void kt::swiglu_backward<kt::Avx2>(float const*)", "elements", "elements"),
        ("kt::Pool::Use::run(int)", "waiting", "waiting"),
        ("gomp_team_barrier_wait_end", "waiting", "waiting"),
        ("_PyEval_EvalFrameDefault", "other", "other"),
        ("[unknown]", "other", "other"),
    ],
)
def test_functions_are_told_apart_by_their_work(symbol, with_integers, with_bf16):
    assert profile.kind_of(symbol, integers=True) == with_integers
    if with_bf16:
        assert profile.kind_of(symbol, integers=False) == with_bf16


def test_samples_are_counted_by_name_over_the_time_that_they_span():
    text = """
  12.500000:   7f0012 kt::a<int>(int, int)
  12.250000:       55 [unknown]
  13.000000:       7f kt::a<int>(int, int)
  12.750000:        9
"""
    names, seconds = profile.counted(text)
    assert names == {"kt::a<int>(int, int)": 2, "[unknown]": 1, "": 1}
    assert seconds == 0.75
    assert profile.counted("") == ({}, 0.0)


@pytest.fixture
def perf(tmp_path, monkeypatch):
    """A folder that has the only perf, which is what the test writes; the layer is tiny."""
    monkeypatch.setitem(presets.PRESETS, "tiny", TINY)
    monkeypatch.setattr(profile, "SHAPES", ("tiny",))
    monkeypatch.setattr(profile, "SECONDS", 0.05)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(text):
        program = folder / "perf"
        program.write_text(f"#!/bin/bash\n{text}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    return write


def test_a_profile_has_each_method_and_shares_of_all_threads(perf, monkeypatch):
    monkeypatch.setattr(profile, "SAMPLES", 100)
    monkeypatch.setattr(profile, "CALLS", 0)
    samples = "\n".join(f" 7.0{i}: 7f00 {TILE}" for i in range(4)) + f"\n 7.05: 7f00 {FLOATS}"
    perf(f'if [ "$1" = record ]; then exec sleep 0.05; fi\ncat <<"END"\n{samples}\nEND')
    profiles = profile.measure(pytest.fail)
    assert [each["method"] for each in profiles] == list(presets.SFT_METHODS)
    possible = 100 * 0.05 * profile.native().cpu_count()
    assert profiles[0]["shares"]["products"] == pytest.approx(5 / possible)
    assert profiles[1]["shares"]["products"] == pytest.approx(4 / possible)
    assert profiles[1]["shares"]["LoRA"] == pytest.approx(1 / possible)
    assert all(0 < each["seconds"] < 5 for each in profiles)


def test_perf_comes_before_what_it_samples_in_real_time(perf, tmp_path, monkeypatch):
    """Behind it, perf waits for a core for minutes."""
    said = tmp_path / "said"
    perf(f'if [ "$1" = record ]; then exec sleep 0.05; fi\necho " 7.5: 7f00 {TILE}"')
    program = tmp_path / "bin" / "chrt"
    program.write_text(f'#!/bin/bash\necho "$1 $2 $3 $4" > {said}\nexec "${{@:3}}"\n')
    program.chmod(0o755)
    profile.sample(lambda: None)
    assert not said.exists()
    for policy, priority, wanted in ((os.SCHED_FIFO, 5, 6), (os.SCHED_RR, 99, 99)):
        monkeypatch.setattr(os, "sched_getscheduler", lambda _, policy=policy: policy)
        param = os.sched_param(priority)
        monkeypatch.setattr(os, "sched_getparam", lambda _, param=param: param)
        profile.sample(lambda: None)
        assert said.read_text() == f"--fifo {wanted} perf record\n"


def test_a_perf_that_may_not_sample_is_a_note(perf):
    perf("echo 'Access to performance monitoring' >&2; echo 'is limited.' >&2; exit 255")
    told = []
    assert profile.measure(told.append) == []
    assert told == ["no profile: perf: Access to performance monitoring is limited."]


@pytest.mark.parametrize("samples", ["", "  7.5: 7f00 [unknown]"])
def test_samples_without_the_extension_are_a_note(perf, monkeypatch, samples):
    monkeypatch.setattr(profile, "CALLS", 0)
    perf(f'if [ "$1" = record ]; then exec sleep 0.05; fi\necho "{samples}"')
    told = []
    assert profile.measure(told.append) == []
    assert told == [profile.UNKNOWN]


def test_without_perf_a_note_says_where_it_comes_from(monkeypatch):
    monkeypatch.setenv("PATH", "")
    told = []
    assert profile.measure(told.append) == []
    assert told == [profile.MISSING]


def test_the_table_and_the_picture_show_every_share():
    told = made_up()
    shares = {"LoRA": 0.125, "products": 0.5, "other": 0.25}
    told["profile"] = [
        {"shape": "S1", "passes": "forward+backward", "method": method, "seconds": 1.0}
        | {"shares": shares}
        for method in (BF16, INT8)
    ]
    (line,) = [
        line for line in peers.report(told).splitlines() if f"| {INT8}" in line and "%" in line
    ]
    reached = table.fraction(told["profile"][1], told["limits"])
    columns = [column.strip() for column in line.strip("|").split("|")]
    assert columns[2:5] == ["1000", f"{reached:.0%}", f"{2 * reached:.0%}"]
    assert columns[5:] == ["12.5%", "50.0%", "25.0%", "12.5%"]
    drawn = picture.profile_svg(told)
    assert all(kind in drawn for kind in shares)
    assert f"S1 {INT8}" in drawn
