"""`python -m tools.peers` from end to end on a tiny layer, and kt-kernel's process."""

import json
import sys

import pytest
import torch
from fake_clock import FakeClock

from benchmarks import inputs, presets, units
from benchmarks.case import Case, native
from benchmarks.roofline import PASSES
from kt_kernel import checks
from tools import lock
from tools.peers import __main__ as peers
from tools.peers import cells, decode, overhead, routing, sweep, threads, turns
from tools.peers.kt_kernel_peer import KtKernel, PeerError

BF16, INT8, INT4, KGROUP, *_ = presets.SFT_METHODS
TINY = presets.Preset(experts=3, hidden=256, intermediate=128, top_k=2, tokens=6, lora_rank=8)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """All parts on the tiny layer, without pauses, the limits measured in a moment."""
    monkeypatch.setattr(lock, "path", lambda: tmp_path / "lock")
    monkeypatch.setitem(presets.PRESETS, "tiny", TINY)
    monkeypatch.setattr(inputs, "RING", 4093)  # to draw millions of weights takes its time
    for module in (cells, decode, routing, threads):
        monkeypatch.setattr(module, "SHAPES", ("tiny",))
    monkeypatch.setattr(overhead, "LARGE", ())
    monkeypatch.setattr(overhead, "SMALL", ("tiny",))
    monkeypatch.setattr(sweep, "SWEEP", {"sweep-1": TINY, "sweep-6": TINY})
    for module in (decode, overhead):
        monkeypatch.setattr(module, "SECONDS", 0)
    monkeypatch.setattr(turns, "WARM_UP", 0)
    monkeypatch.setattr(turns, "sleep", lambda seconds: None)
    monkeypatch.setattr(cells, "BANDWIDTH_MEBIBYTES", 8)
    monkeypatch.setattr(cells, "peak", lambda products, n: units.peak(products, n, 1))


def run(folder, *arguments):
    folders = ["--results", str(folder / "results"), "--pictures", str(folder / "pictures")]
    peers.main([*folders, *arguments], rounds=2)
    (path,) = (folder / "results").glob("*.json")
    return json.loads(path.read_text())


class FakeKtKernel:
    """Answers as kt-kernel would: INT8 computes something else, the groups only infer."""

    def __init__(self, python, environment):
        self.python, self.loaded = python, None

    def about(self):
        return {"version": "0", "build": "fake"}

    def close(self):
        pass

    def load(self, method, shape, threads):
        if method == INT4:
            raise PeerError("kt-kernel: no such class")
        self.method = method
        trains = method != KGROUP
        return {"class": "C", "trains": trains, "rank": shape.lora_rank if trains else 0}

    def seconds(self, passes):
        return 2.0

    def output(self, like):
        ours = Case("AMXBF16" if self.method == KGROUP else BF16, "tiny").load().forward()
        return -ours if self.method == INT8 else ours


def test_a_run_measures_prints_and_draws_all_its_parts(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(peers, "KtKernel", FakeKtKernel)
    parts = ("tiny", "sweep", "threads", "routing", "decode", "overhead")
    results = run(tmp_path, "--kt-kernel", "python", "--only", *parts)
    shown = capsys.readouterr().out
    assert {(c["method"], c["passes"]) for c in results["cells"]} == {
        (method, passes) for method in presets.SFT_METHODS for passes in PASSES
    }
    peers_of = {(c["method"], c["passes"]): c.get("kt") for c in results["cells"]}
    assert peers_of[BF16, PASSES[0]]["theirs"] == peers_of[BF16, PASSES[1]]["theirs"] == 2.0
    assert peers_of[KGROUP, PASSES[0]]
    missing = [INT4, PASSES[0]], [INT4, PASSES[1]], [INT8, PASSES[0]], [KGROUP, PASSES[1]]
    assert all(peers_of[tuple(cell)] is None for cell in missing)
    assert "C errs by 200.0%" in shown
    assert "where its class trains, the time inside its kernels." in shown
    assert (
        "where it does not, a call's time by the clock, without LoRA, which ours computes." in shown
    )
    assert "kt-kernel's groups are of 32, not 128.\n" in shown
    assert f"{INT4}: kt-kernel: no such class" in shown
    assert len(results["sweep"]) == 2 * 2 * len(presets.SFT_METHODS)
    subjects = {finding["subject"] for finding in results["findings"]}
    assert subjects >= {"one hot expert over balanced", "Zipf over balanced", "time of a call"}
    assert subjects >= {"wrapper over native", "above bytes / bandwidth"}
    assert any(subject.startswith("time of ") for subject in subjects)
    for name in ("roofline.svg", "sweep.svg"):
        assert (tmp_path / "pictures" / name).read_text().rstrip().endswith("</svg>")
    assert native().isa() in shown
    assert f"{native().cpu_count()} threads" in shown
    assert "results: " in shown


def test_the_class_costs_what_a_call_takes_outside_of_the_extension(tiny, monkeypatch):
    clock, forward, rows = FakeClock(), native().Layer.forward, checks.rows
    outside, inside = clock.takes("class", 0.005), clock.takes("extension", 0.05)
    monkeypatch.setattr(overhead, "perf_counter", clock)
    monkeypatch.setattr(overhead, "LARGE", ("tiny",))
    monkeypatch.setattr(checks, "rows", lambda *given: (outside(), rows(*given))[1])
    monkeypatch.setattr(native().Layer, "forward", lambda *given: (inside(), forward(*given))[1])
    found = overhead.measure(rounds=2)
    assert {each.unit for each in found} == {"%"}  # of a layer that is small and large
    assert [each.value for each in found] == [pytest.approx(10)] * len(found)
    monkeypatch.setattr(overhead, "LARGE", ())
    found = overhead.measure(rounds=2)
    assert [(each.value, each.unit) for each in found] == [(pytest.approx(5000), "us")] * len(found)


def test_without_kt_kernel_a_line_says_so_and_what_is_not_whole_is_not_drawn(
    tiny, tmp_path, capsys, monkeypatch
):
    monkeypatch.delenv("KT_PEER_PYTHON", raising=False)
    monkeypatch.setattr(cells, "SHAPES", ("tiny", "S1"))
    results = run(tmp_path, "--only", "tiny")
    assert results["notes"] == [peers.NO_KT]
    assert peers.NO_KT in capsys.readouterr().out
    assert list((tmp_path / "pictures").iterdir()) == []


@pytest.mark.parametrize("python", ["/no/such/python", sys.executable])
def test_an_environment_without_kt_kernel_is_one_line(tiny, tmp_path, python):
    """The second finds this project's package, which is none of its peers."""
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, "--kt-kernel", python, "--only", "tiny")
    (line,) = str(stopped.value).splitlines()
    assert "kt-kernel" in line
    assert python in line or "kt_kernel_ext" in line
    assert list((tmp_path / "results").iterdir()) == []


FAKE = """
from types import SimpleNamespace
import torch
def moe(config): raise RuntimeError(f"{config.expert_num} experts are too many")
class Config(SimpleNamespace):
    def __init__(self, experts, *sizes): super().__init__(expert_num=experts)
__cpu_variant__ = "avx9"
pool = lambda config: SimpleNamespace(backend_=None)
kt_kernel_ext = SimpleNamespace(
    WorkerPoolConfig=SimpleNamespace, CPUInfer=pool,
    moe=SimpleNamespace(MOESFTConfig=Config, AMXBF16_SFT_MOE=moe))
"""


def test_its_process_answers_and_survives_what_it_cannot_do(tmp_path):
    """A package of kt-kernel's name in the place of the real one."""
    (tmp_path / "kt_kernel.py").write_text(FAKE)
    (tmp_path / "kt_kernel-1.2.dist-info").mkdir()
    metadata = tmp_path / "kt_kernel-1.2.dist-info" / "METADATA"
    metadata.write_text("Metadata-Version: 2.1\nName: kt-kernel\nVersion: 1.2\n")
    python = tmp_path / "python"
    path = f"${{PYTHONPATH:+$PYTHONPATH:}}{tmp_path}"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{path}" exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "kt_kernel.py").write_text("raise ImportError('it found ours')")
    kt = KtKernel(str(python), {"PYTHONPATH": str(tmp_path / "ours")})
    try:
        assert kt.about() == {"version": "1.2", "build": "avx9"}
        with pytest.raises(PeerError, match="its build avx9 has no AMXInt8_SFT_MOE or AMXInt8_MOE"):
            kt.load(INT8, TINY, 1)
        with pytest.raises(PeerError, match="3 experts are too many"):
            kt.load(BF16, TINY, 1)
        assert kt.about()["version"] == "1.2"
        kt._child._process.kill()
        with pytest.raises(PeerError, match="does not run: it ended with exit code -9"):
            kt.output(torch.empty(0))
    finally:
        kt.close()
