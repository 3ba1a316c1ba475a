"""What the suites measure against: the float32 reference, PyTorch, the roofline."""

import resource

import pytest
import torch
from fake_clock import FakeClock
from peer_check import check_peer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import case, inputs, load, presets, relative_error, roofline, timing, units
from benchmarks.wrapper_overhead import WrapperOverhead
from kt_kernel import KTMoEWrapper
from kt_kernel.methods import METHODS
from kt_kernel.reference import compute_relative_error, moe_reference

SFT = presets.SFT_METHODS[0]
# Sizes of whole groups.
TINY = presets.Preset(experts=3, hidden=256, intermediate=128, top_k=2, tokens=6, lora_rank=8)


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
    assert len(errors) == 11
    assert all(0 < error < 1 for error in errors.values()), errors
    # One tensor of the reference twice as large: exactly its row is at 50%.
    original = relative_error.reference

    def doubled(made, *weights):
        wanted = original(made, *weights)
        return wanted | {"grad_up_lora_b": 2 * wanted["grad_up_lora_b"]}

    monkeypatch.setattr(relative_error, "reference", doubled)
    moved = relative_error.measure(SFT, tiny)
    assert moved.pop("grad_up_lora_b") == pytest.approx(50, abs=1)
    errors.pop("grad_up_lora_b")
    assert moved == errors


def test_the_dequantized_weights_are_those_that_the_layer_holds(tiny):
    """A layer loaded with them computes what the layer loaded with the originals computes."""
    for method in presets.METHODS:
        made = case.Case(method, tiny)
        held = [relative_error.dequantized(made, expert) for expert in range(TINY.experts)]
        again = case.Case(method, tiny)
        again.weights = [torch.stack(matrices) for matrices in zip(*held, strict=True)]
        error = compute_relative_error(again.load().forward(), made.load().forward())
        assert error < (0.002 if "KGroup" in method else 1e-4), method


def test_kernel_errors_leave_out_the_rounding_of_the_weights(tiny):
    errors = {method: relative_error.measure(method, tiny) for method in presets.SFT_METHODS}
    for method, of in errors.items():
        for name in ("output", "grad_input"):
            kernel = of[f"kernel_{name}"]
            if presets.FORMATS[method] is presets.BF16:
                assert kernel == of[name]
            else:
                assert 0 < kernel < 2 < of[name] or (method == "AMXINT8_SFT" and kernel < of[name])


@pytest.mark.parametrize("planted", presets.SFT_METHODS)
@pytest.mark.parametrize("call", ["forward_sft", "backward"])
def test_a_loss_of_precision_moves_the_rows_of_its_method_alone(tiny, monkeypatch, planted, call):
    """Activations of one method lose four of their eight bits, in one direction."""
    methods = presets.SFT_METHODS
    before = {method: relative_error.measure(method, tiny) for method in methods}
    right = getattr(KTMoEWrapper, call)

    def coarse(self, activations, *rest, **options):
        if self.method == planted:
            activations = (activations.view(torch.int16) & ~15).view(torch.bfloat16)
        return right(self, activations, *rest, **options)

    monkeypatch.setattr(KTMoEWrapper, call, coarse)
    after = {method: relative_error.measure(method, tiny) for method in methods}
    for method in methods:
        moved = {name for name, error in after[method].items() if error != before[method][name]}
        if method != planted:
            assert not moved
        elif call == "forward_sft":  # what backward reads was saved coarse
            assert moved == set(after[method])
        else:
            assert moved == set(after[method]) - {"output", "kernel_output"}
    worst = "kernel_output" if call == "forward_sft" else "kernel_grad_input"
    assert after[planted][worst] > 1.5 * before[planted][worst]


def test_errors_are_computed_once_for_all_rows(tiny, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    calls = []
    monkeypatch.setattr(
        relative_error,
        "measure",
        lambda *row: calls.append(row[:2]) or {"output": 1.0, "grad_input": 2.0},
    )
    suite = relative_error.RelativeError()
    for _ in range(2):
        suite.setup(SFT, tiny)
    assert suite.track_output(SFT, tiny) == 1.0
    assert suite.track_grad_input(SFT, tiny) == 2.0
    assert calls == [(SFT, tiny)]


def test_the_methods_of_a_kind_share_one_reference(tiny, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    first, second = presets.SFT_METHODS[1:3]
    alone = relative_error.measure(second, tiny)
    made, reference = [], relative_error.reference

    def count(one, *weights):
        if not weights:
            made.append(one.method)
        return reference(one, *weights)

    monkeypatch.setattr(relative_error, "reference", count)
    suite = relative_error.RelativeError()
    for method in (first, "AMXBF16", "AMXINT8", second):
        suite.setup(method, tiny)
    assert suite.errors == alone
    assert made == [first, "AMXBF16"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_track_that_is_not_finite_raises(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"output": value}, "m-p.pt")
    suite = relative_error.RelativeError()
    suite.setup("m", "p")
    with pytest.raises(ValueError, match="error of output"):
        suite.track_output("m", "p")
    assert case.finite(-1.5, "x") == -1.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_peer_in_torch_computes_the_same_layer(tiny, dtype):
    check_peer(roofline.GroupedMM, case.Case(SFT, tiny), dtype)


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ((), torch.float32),
        (("avx512_vnni",), torch.float32),
        (("avx512_bf16",), torch.bfloat16),
        (("amx_bf16",), torch.bfloat16),
    ],
)
def test_pytorch_gets_the_type_that_the_cpu_multiplies_fastest(tiny, monkeypatch, flags, dtype):
    none = dict.fromkeys(torch.cpu.get_capabilities(), False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: none | dict.fromkeys(flags, True))
    taken = []
    monkeypatch.setattr(
        roofline.timing, "ratio", lambda ours, theirs, seconds: taken.append(theirs) or 1
    )
    suite = roofline.Roofline()
    suite.setup(SFT, tiny, "forward")
    suite.track_times_over_torch(SFT, tiny, "forward")
    (forward,) = taken
    assert forward.__self__.run().dtype == dtype


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
    assert roofline.weight_bytes(TINY, "forward", 0.5) == 3 * 3 * 256 * 128 / 2
    assert roofline.weight_bytes(TINY, "forward+backward", 0.5) == 3 * 3 * 256 * 128


@pytest.mark.parametrize("method", presets.SFT_METHODS)
@pytest.mark.parametrize("bound", ["arithmetic", "memory"])
def test_the_roof_is_that_of_the_methods_own_products(tiny, monkeypatch, method, bound):
    peaks = {"bf16": 2e9, "int8": 3e9}  # operations per second
    bandwidth = 1e6 if bound == "memory" else 1e12

    class Machine:
        cpu_count = staticmethod(lambda: 2)
        read_bandwidth = staticmethod(lambda threads, mebibytes: bandwidth)

    monkeypatch.setattr(roofline, "native", lambda: Machine)
    monkeypatch.setattr(units, "peak", lambda products, threads, milliseconds: peaks[products])
    monkeypatch.setattr(roofline.timing, "clock", lambda function: 3.0)
    suite = roofline.Roofline()
    suite.setup(method, tiny, "forward")
    form = METHODS[method].format
    if bound == "memory":
        per_weight = {"bf16": 2, "int8": 1, "int4": 0.5, "int4_kgroup": (128 / 2 + 2) / 128}
        roof = 3 * 3 * 256 * 128 * per_weight[form] / bandwidth
    else:
        operations = roofline.floating_point_operations(TINY, "forward")
        roof = operations / peaks["bf16" if form == "bf16" else "int8"]
    over = suite.track_times_over_roofline(method, tiny, "forward")
    assert over == pytest.approx(3.0 / roof)


@pytest.mark.parametrize(("seconds", "calls"), [(0.01, 31), (0.25, 16), (3.0, 7)])
def test_long_calls_take_fewer_turns_with_the_roof(tiny, monkeypatch, seconds, calls):
    clock = FakeClock()
    monkeypatch.setattr(roofline, "perf_counter", clock)
    monkeypatch.setattr(roofline, "peak", lambda *_, **__: 1e9)
    monkeypatch.setattr(roofline, "bandwidth", lambda *_, **__: 1e9)

    def call(function):
        clock.takes("layer", seconds)()
        return seconds

    monkeypatch.setattr(roofline.timing, "clock", call)
    suite = roofline.Roofline()
    suite.setup(SFT, tiny, "forward")
    suite.track_times_over_roofline(SFT, tiny, "forward")
    assert len(clock.calls) == calls


@pytest.mark.parametrize("method", presets.METHODS)
def test_bytes_per_weight_are_what_a_layer_holds_but_for_the_scales_of_rows(monkeypatch, method):
    """Of a layer that is large beside a huge page and has but one expert loaded."""
    wide = presets.Preset(experts=64, hidden=2048, intermediate=1024, top_k=1, tokens=1)
    monkeypatch.setitem(presets.PRESETS, "wide", wide)
    monkeypatch.setattr(case, "make_weights", lambda preset: None)
    layer = case.Case(method, "wide").native_layer()
    matrices = [torch.ones(shape) for shape in ((1024, 2048), (1024, 2048), (2048, 1024))]
    views = [case.native().Tensor("w", w.data_ptr(), "float32", w.shape) for w in matrices]
    layer.load_expert(0, *views)
    held = layer.weight_bytes / wide.weights
    assert 1 <= held / presets.FORMATS[method].bytes_per_weight < 1.02


def test_the_peak_of_loading_is_not_that_of_what_was_before(tiny):
    def peak():
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    torch.ones(64 << 20)  # 256 MiB, gone at once
    before, suite = peak(), load.Load()
    suite.setup(SFT, tiny)
    suite.peakmem_load_weights(SFT, tiny)
    assert peak() < before - (128 << 20)


def test_timings_take_turns():
    calls = []
    timing.ratio(lambda: calls.append("a"), lambda: calls.append("b"), seconds=0, at_least=3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"


def test_a_ratio_is_that_of_the_turns_that_nothing_disturbed(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr(timing, "perf_counter", clock)
    paces = [pace for pace in (1, 1, 2, 3, 3, 1, 2, 1, 1) for _ in "ab"]  # the first warms up

    def takes(seconds, disturbed=()):
        def spend():
            clock.now += seconds * paces.pop() + (len(paces) in disturbed)

        return spend

    over = timing.ratio(takes(0.1, disturbed=(2, 3)), takes(0.4), seconds=0, at_least=8)
    assert over == pytest.approx(0.25)
    assert paces == []
    assert timing.middle_mean([9.0, 2.0, 1.0, 3.0, 2.0, 4.0, 0.0, 3.0]) == 2.5


def test_overhead_measures_the_layer_under_the_wrapper(tiny):
    suite = WrapperOverhead()
    suite.setup(SFT, tiny)
    suite.call()
    assert torch.equal(suite.output, suite.case.forward())
