"""The asv suites: what asv sees of them, their inputs, their yardsticks."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from asv_runner.discovery import disc_benchmarks

from benchmarks import case, inputs, presets, relative_error, sweep
from kt_kernel.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
SFT = presets.SFT_METHODS[0]
# Sizes of whole 16 bytes, as torch._grouped_mm demands.
TINY = presets.Preset(experts=3, hidden=72, intermediate=40, top_k=2, tokens=6, lora_rank=8)


@pytest.fixture(scope="module")
def suites():
    return list(disc_benchmarks(str(ROOT / "benchmarks")))


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "tiny", TINY)
    return "tiny"


def test_the_suites_of_the_design_exist(suites):
    names = {benchmark.name.split(".", 1)[1] for benchmark in suites}
    loras = {f"RelativeError.track_grad_{name}" for name in inputs.LORA_NAMES}
    assert names >= loras | {
        "Forward.time_forward",
        "Backward.time_backward",
        "TrainingStep.time_training_step",
        "WrapperOverhead.time_wrapper",
        "WrapperOverhead.time_native",
        "WrapperOverhead.track_overhead_percent",
        "RelativeError.track_output",
        "RelativeError.track_grad_input",
        "RelativeError.track_grad_routing_weights",
        "RelativeError.track_kernel_error",
        "RelativeError.track_kernel_error_grad_input",
        "Roofline.track_times_over_roofline",
        "Roofline.track_times_over_torch",
        "Memory.peakmem_forward",
        "Memory.peakmem_training_step",
        "Memory.track_bytes_per_weight",
        "Growth.track_growth_over_1000_steps",
        "Control.time_product",
        "Import.time_import",
        "Load.time_load_weights",
        "Sweep.time_forward",
        "Sweep.time_forward_backward",
    }


def test_every_benchmark_says_its_version_unit_and_parameters(suites):
    for benchmark in suites:
        assert re.fullmatch(r"\d+", benchmark.version), f"{benchmark.name}: a hash is no version"
        assert benchmark.unit != "unit", benchmark.name
        assert len(benchmark.param_names) == len(benchmark.params) > 0, benchmark.name
        wanted = {"Import": ["statement"], "Control": ["preset"]}
        suite = benchmark.name.split(".")[-2]
        names = wanted.get(suite, ["method", "preset"])
        assert benchmark.param_names[: len(names)] == names, benchmark.name


def test_quick_is_the_sft_methods_on_the_quick_presets_all_errors_and_the_imports(suites):
    for benchmark in suites:
        suite, metric = benchmark.name.split(".")[-2:]
        for choice in itertools.product(*benchmark.params):
            quick = bool(re.search(presets.QUICK, f"{benchmark.name}({', '.join(choice)})"))
            if suite == "Import":
                assert quick
                continue
            if suite == "Control":
                assert quick == choice[0].startswith("'quick-")
                continue
            method, preset = (value.strip("'") for value in choice[:2])
            wanted = preset in ("quick-compute", "quick-memory")
            wanted &= method in presets.SFT_METHODS or suite == "RelativeError"
            wanted &= metric not in ("time_wrapper", "time_native")
            assert quick == wanted, (benchmark.name, choice)


def test_the_inference_methods_are_in_the_suites_that_say_something_of_them(suites):
    measured = {b.name.split(".", 1)[1] for b in suites if repr("AMXINT4_KGroup") in b.params[0]}
    assert measured >= {
        "Forward.time_forward",
        "Memory.track_bytes_per_weight",
        "Memory.peakmem_forward",
        "RelativeError.track_output",
    }
    for benchmark in suites:
        if benchmark.param_names[0] == "method":
            methods = [value.strip("'") for value in benchmark.params[0]]
            assert tuple(methods) in (presets.SFT_METHODS, presets.METHODS), benchmark.name


def test_presets_route_every_expert_the_same_number_of_tokens():
    for name, preset in presets.PRESETS.items():
        batch = inputs.make_batch(preset)
        counts = torch.bincount(batch.expert_ids.flatten(), minlength=preset.experts)
        assert counts.tolist() == [preset.tokens * preset.top_k // preset.experts] * len(counts), (
            name
        )
        for row in batch.expert_ids.tolist():
            assert len(set(row)) == preset.top_k, f"{name}: a token names an expert twice"
        torch.testing.assert_close(batch.weights.sum(1), torch.ones(preset.tokens))


def test_the_peers_shapes_are_the_peers():
    shapes = {
        name: (p.experts, p.hidden, p.intermediate, p.top_k, p.tokens, p.lora_rank, p.lora_alpha)
        for name, p in presets.PRESETS.items()
    }
    assert shapes["S1"] == (16, 2048, 1408, 6, 128, 16, 32.0)
    assert shapes["S2"] == (32, 7168, 2048, 8, 16, 16, 32.0)
    assert shapes["S3"] == (8, 7168, 2048, 8, 128, 16, 32.0)


def test_every_method_of_the_package_is_measured():
    aliases = {"BF16"}  # AMXBF16 under another name
    assert set(presets.METHODS) == set(METHODS) - aliases
    assert set(presets.SFT_METHODS) == {m.name for m in METHODS.values() if m.sft}
    for method, form in presets.FORMATS.items():
        assert form.name == METHODS[method].format


def test_weights_are_drawn_without_repeating_an_expert():
    gate, up, down = inputs.stacked(inputs.make_weights(TINY))
    assert (gate.shape, up.shape, down.shape) == ((3, 40, 72), (3, 40, 72), (3, 72, 40))
    experts = torch.cat([gate.flatten(1), up.flatten(1), down.flatten(1)])
    assert len({tuple(row.tolist()) for row in experts}) == len(experts)
    assert gate.float().std().item() == pytest.approx(72**-0.5, rel=0.05)
    assert down.float().std().item() == pytest.approx(40**-0.5, rel=0.05)
    assert torch.equal(gate, inputs.stacked(inputs.make_weights(TINY))[0])


def test_weights_longer_than_the_ring_wrap_around(monkeypatch):
    monkeypatch.setattr(inputs, "RING", 1001)
    gate, up, down = inputs.stacked(inputs.make_weights(TINY))
    flat = torch.cat([gate.flatten(), up.flatten(), (down.float() * (40 / 72) ** 0.5).flatten()])
    torch.testing.assert_close(flat[:1001].float(), flat[1001:2002].float())
    torch.testing.assert_close(flat[-1001:].float(), flat[-2002:-1001].float(), rtol=0.01, atol=0)


def test_the_suites_import_without_the_package():
    """On a commit whose package does not import, asv can still list what it would measure."""
    code = """
import importlib, pkgutil, sys
sys.modules["kt_kernel"] = None
import benchmarks
for module in pkgutil.iter_modules(benchmarks.__path__):
    importlib.import_module(f"benchmarks.{module.name}")
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_method_that_a_commit_lacks_is_not_applicable(monkeypatch):
    # The table as a whole: an entry put back would stand at its end, for every test after this one.
    fewer = {name: method for name, method in METHODS.items() if name != SFT}
    monkeypatch.setattr("kt_kernel.methods.METHODS", fewer)
    with pytest.raises(NotImplementedError, match=SFT):
        case.Case(SFT, "quick-compute")


def test_a_commit_without_the_layer_is_not_applicable(monkeypatch):
    monkeypatch.setitem(sys.modules, "kt_kernel.methods", None)
    with pytest.raises(NotImplementedError, match=r"no kt_kernel\.methods"):
        case.Case(SFT, "quick-compute")


def test_a_package_that_lacks_what_it_needs_is_an_error(monkeypatch):
    monkeypatch.delitem(sys.modules, "kt_kernel.methods")
    monkeypatch.setitem(sys.modules, "dataclasses", None)
    with pytest.raises(ModuleNotFoundError, match="dataclasses"):
        case.methods()


def test_an_error_of_the_package_is_not_swallowed(tiny, monkeypatch):
    from kt_kernel import KTMoEWrapper

    def fail(*args, **kwargs):
        raise ValueError("broken")

    monkeypatch.setattr(KTMoEWrapper, "load_weights_from_tensors", fail)
    with pytest.raises(ValueError, match="broken"):
        relative_error.measure(SFT, tiny)


def test_the_sweep_gives_every_expert_as_many_tokens_as_its_name_says(monkeypatch):
    for name, preset in presets.SWEEP.items():
        counts = inputs.make_batch(preset).expert_ids.flatten().bincount()
        assert counts.tolist() == [int(name.removeprefix("sweep-"))] * preset.experts
    monkeypatch.setitem(presets.SWEEP, "sweep-4", TINY)
    suite = sweep.Sweep()
    suite.setup(SFT, "sweep-4")
    suite.time_forward_backward(SFT, "sweep-4")
    assert suite.case.shape == TINY
    assert suite.case.native_layer().cache_used == 0


def test_memory_finds_the_packed_bytes():
    """In a process of its own, as asv runs it: other tests' memory would come and go."""
    code = f"""
from benchmarks import memory
suite = memory.Memory()
suite.setup({SFT!r}, "quick-memory")
print(suite.track_bytes_per_weight({SFT!r}, "quick-memory"))
before = memory.anonymous_bytes()
kept = bytearray(50 << 20)
kept[:] = bytes(50 << 20)
print((memory.anonymous_bytes() - before) / (1 << 20))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    per_weight, grown = map(float, done.stdout.split())
    assert 2.0 <= per_weight < 2.1
    assert 49 < grown < 110


def test_steps_that_leave_something_behind_are_growth():
    """Two kilobytes a step are two megabytes more of some hundred."""
    code = f"""
from benchmarks import growth
growth.WARM_UP = 10
suite = growth.Growth()
suite.setup({SFT!r}, "tiny")
print(suite.track_growth_over_1000_steps({SFT!r}, "tiny"))
kept, right = [], growth.step
def leaking(case):
    right(case)
    kept.append(bytes(range(256)) * 8)
growth.step = leaking
print(suite.track_growth_over_1000_steps({SFT!r}, "tiny"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    quiet, leaking = map(float, done.stdout.split())
    assert abs(quiet - 1) < 0.004
    assert leaking - quiet > 0.008


def test_asv_accepts_the_suites(tmp_path):
    """`asv check` in this environment: signatures of setups and of what is measured."""
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "asv", "check", "-E", f"existing:{sys.executable}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No problems found" in done.stdout
