"""What the suites measure against: the float32 reference, PyTorch, the roofline."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import case, inputs, presets, relative_error, roofline, timing
from benchmarks.wrapper_overhead import WrapperOverhead
from kt_kernel.reference import compute_relative_error, moe_reference

SFT = presets.SFT_METHODS[0]
# Sizes of whole 16 bytes, as torch._grouped_mm demands.
TINY = presets.Preset(experts=3, hidden=72, intermediate=40, top_k=2, tokens=6, lora_rank=8)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "tiny", TINY)
    return "tiny"


@pytest.mark.parametrize("method", presets.METHODS)
def test_the_yardstick_agrees_with_the_package(tiny, method):
    """The benchmarks keep a reference of their own, so that no commit can move it."""
    made = case.Case(method, tiny)
    batch = made.batch
    ours = relative_error.reference(made)
    theirs = moe_reference(
        batch.hidden_states,
        batch.expert_ids,
        batch.weights,
        list(zip(*made.weights, strict=True)),
        dict(zip(inputs.LORA_NAMES, made.lora, strict=True)) if made.lora else None,
        TINY.lora_scaling if made.lora else 1.0,
        grad_output=batch.grad_output,
    )
    torch.testing.assert_close(ours["output"], theirs.output)
    if made.lora:
        torch.testing.assert_close(ours["grad_input"], theirs.grad_input)
        torch.testing.assert_close(ours["grad_routing_weights"], theirs.grad_weights)
        for name in inputs.LORA_NAMES:
            key = f"grad_{name}"
            torch.testing.assert_close(ours[key], theirs.grad_loras[key])


def test_errors_are_percents_of_every_tensor(tiny, monkeypatch):
    errors = relative_error.measure(SFT, tiny)
    assert len(errors) == 9
    assert all(0 < error < 1 for error in errors.values()), errors
    # One tensor of the reference twice as large: exactly its row is at 50%.
    original = relative_error.reference

    def doubled(made):
        wanted = original(made)
        return wanted | {"grad_up_lora_b": 2 * wanted["grad_up_lora_b"]}

    monkeypatch.setattr(relative_error, "reference", doubled)
    moved = relative_error.measure(SFT, tiny)
    assert moved.pop("grad_up_lora_b") == pytest.approx(50, abs=1)
    errors.pop("grad_up_lora_b")
    assert moved == errors


def test_errors_are_computed_once_for_all_rows(tiny, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    calls = []
    monkeypatch.setattr(
        relative_error,
        "measure",
        lambda *row: calls.append(row) or {"output": 1.0, "grad_input": 2.0},
    )
    suite = relative_error.RelativeError()
    for _ in range(2):
        suite.setup(SFT, tiny)
    assert suite.track_output(SFT, tiny) == 1.0
    assert suite.track_grad_input(SFT, tiny) == 2.0
    assert calls == [(SFT, tiny)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_track_that_is_not_finite_raises(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("m-p.json").write_text(json.dumps({"output": value}))
    suite = relative_error.RelativeError()
    suite.setup("m", "p")
    with pytest.raises(ValueError, match="error of output"):
        suite.track_output("m", "p")
    assert case.finite(-1.5, "x") == -1.5


def test_the_peer_in_torch_computes_the_same_layer(tiny):
    made = case.Case(SFT, tiny)
    peer = roofline.GroupedMM(made)
    wanted = relative_error.reference(made)
    output = peer.run()
    names = ["grad_input", *(f"grad_{name}" for name in inputs.LORA_NAMES)]
    grads = torch.autograd.grad(output, [peer.x, *peer.lora], made.batch.grad_output)
    assert compute_relative_error(output.float(), wanted["output"]) < 0.02
    for name, grad in zip(names, grads, strict=True):
        assert compute_relative_error(grad.float(), wanted[name]) < 0.02, name


def test_operations_are_those_that_a_walk_over_experts_multiplies():
    """Counted by PyTorch on the reference, whose weights need no gradient, as ours do not."""

    class Made:
        shape, lora = TINY, inputs.make_lora(TINY)
        batch, weights = inputs.make_batch(TINY), inputs.make_weights(TINY)

    with FlopCounterMode(display=False) as both:
        relative_error.reference(Made)
    # Forward and backward of the reference, less the gradient of the routing weights, which is a
    # sum of products and no matrix product, so PyTorch does not count it.
    wanted = roofline.floating_point_operations(TINY, "forward+backward")
    assert both.get_total_flops() == wanted
    assert roofline.weight_bytes(TINY, "forward") == 2 * 3 * 3 * 72 * 40
    assert roofline.weight_bytes(TINY, "forward+backward") == 2 * 2 * 3 * 3 * 72 * 40


def test_timings_take_turns(monkeypatch):
    calls = []
    times = timing.interleave([lambda: calls.append("a"), lambda: calls.append("b")], 0, at_least=3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert len(times) == 2


def test_a_slow_function_is_called_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing, "perf_counter", lambda: now[0])
    calls = []

    def spend(name, seconds):
        calls.append(name)
        now[0] += seconds

    slow, fast = timing.interleave(
        [lambda: spend("slow", 30.0), lambda: spend("fast", 0.25)], seconds=1.0
    )
    assert (slow, fast) == (30.0, 0.25)
    assert calls.count("slow") == 1
    assert calls.count("fast") == 1 + 4


def test_overhead_measures_the_layer_under_the_wrapper(tiny):
    suite = WrapperOverhead()
    suite.setup(SFT, tiny)
    suite.call()
    assert torch.equal(suite.output, suite.case.forward())
