"""The reference against the definition, against torch.autograd and against finite differences."""

import pytest
import torch
from torch import Tensor

from kt_kernel.reference import (
    LORA_NAMES,
    compute_relative_error,
    lora_shapes,
    moe_reference,
    moe_sft_torch_forward,
)
from kt_kernel.synthetic import SyntheticExperts, make_inputs, make_loras

EXPERTS, HIDDEN, INTER, TOP_K, QLEN, RANK, SCALING = 5, 12, 7, 3, 9, 2, 1.5
DOUBLE = torch.float64


class Case:
    """A layer in float64 with masked slots, a token that names an expert twice, an idle expert."""

    def __init__(self, seed=0):
        self.experts = SyntheticExperts(EXPERTS, HIDDEN, INTER, seed=seed, dtype=DOUBLE)
        self.loras = make_loras(EXPERTS, HIDDEN, INTER, RANK, seed=seed, dtype=DOUBLE)
        inputs = make_inputs(QLEN, EXPERTS, TOP_K, HIDDEN, seed=seed, dtype=DOUBLE)
        self.hidden, self.grad_output = inputs.hidden_states, inputs.grad_output
        self.weights = inputs.weights.to(DOUBLE)
        self.ids = inputs.expert_ids
        self.ids[self.ids == 4] = 3
        self.ids[0, :2] = 2
        self.ids[1] = -1
        self.ids[2, 1] = -1

    def reference(self, **options):
        options = {"grad_output": self.grad_output, "dtype": DOUBLE, **options}
        return moe_reference(
            self.hidden, self.ids, self.weights, self.experts, self.loras, SCALING, **options
        )

    def by_definition(self, hidden, loras):
        gate, up, down = self.experts.stacked()
        return moe_sft_torch_forward(
            hidden, self.ids, self.weights, gate, up, down,
            *(loras[name] for name in LORA_NAMES), SCALING,
        )  # fmt: skip


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def test_the_fast_reference_is_the_definition():
    case = Case()
    close(case.reference().output, case.by_definition(case.hidden, case.loras))


def test_gradients_equal_those_of_autograd_through_the_definition():
    case = Case()
    hidden = case.hidden.clone().requires_grad_()
    loras = {name: lora.clone().requires_grad_() for name, lora in case.loras.items()}
    case.by_definition(hidden, loras).backward(case.grad_output)
    result = case.reference()
    close(result.grad_input, hidden.grad)
    for name in LORA_NAMES:
        close(result.grad_loras[f"grad_{name}"], loras[name].grad)


def test_a_masked_slot_and_an_idle_expert_get_zero_gradients():
    case = Case()
    result = case.reference()
    assert (case.ids == 4).sum() == 0
    assert torch.all(result.output[1] == 0)
    assert torch.all(result.grad_input[1] == 0)
    assert torch.all(result.grad_weights[case.ids < 0] == 0)
    assert torch.all(result.grad_weights[case.ids >= 0] != 0)
    for grad in result.grad_loras.values():
        assert torch.all(grad[4] == 0)
        assert torch.any(grad[3] != 0)


class AsFunction(torch.autograd.Function):
    """The reference with its own gradients, for torch's finite-difference check."""

    @staticmethod
    def forward(ctx, case, hidden, weights, *loras):
        ctx.case = case
        ctx.save_for_backward(hidden, weights, *loras)
        return AsFunction.run(case, hidden, weights, loras).output

    @staticmethod
    def backward(ctx, grad_output):
        hidden, weights, *loras = ctx.saved_tensors
        result = AsFunction.run(ctx.case, hidden, weights, loras, grad_output)
        grads = [result.grad_loras[f"grad_{name}"] for name in LORA_NAMES]
        return (None, result.grad_input, result.grad_weights, *grads)

    @staticmethod
    def run(case, hidden, weights, loras, grad_output=None):
        return moe_reference(
            hidden, case.ids, weights, case.experts, dict(zip(LORA_NAMES, loras, strict=True)),
            SCALING, grad_output=grad_output, dtype=DOUBLE,
        )  # fmt: skip


def test_every_gradient_agrees_with_finite_differences():
    case = Case()
    inputs = [t.clone().requires_grad_() for t in (case.hidden, case.weights, *case.loras.values())]
    assert torch.autograd.gradcheck(lambda *args: AsFunction.apply(case, *args), inputs)


def test_float32_errs_only_by_its_rounding():
    case = Case()
    exact, single = case.reference(), case.reference(dtype=torch.float32)
    assert single.output.dtype == single.grad_input.dtype == torch.float32
    assert 0 < compute_relative_error(single.output, exact.output) < 1e-6
    assert 0 < compute_relative_error(single.grad_input, exact.grad_input) < 1e-6


def test_without_adapters_only_the_base_is_left():
    case = Case()
    zeros = {name: torch.zeros_like(lora) for name, lora in case.loras.items()}
    bare = moe_reference(
        case.hidden,
        case.ids,
        case.weights,
        case.experts,
        grad_output=case.grad_output,
        dtype=DOUBLE,
    )
    close(bare.output, case.by_definition(case.hidden, zeros))
    assert bare.grad_loras["grad_gate_lora_a"].shape == (EXPERTS, 0, HIDDEN)


def test_no_gradients_where_none_are_asked_for():
    result = Case().reference(grad_output=None)
    assert result.grad_input is result.grad_loras is result.grad_weights is None


def test_experts_may_be_stacked_tensors_and_progress_sees_those_in_use():
    case = Case()
    seen = []
    experts = list(zip(*case.experts.stacked(), strict=True))
    result = moe_reference(
        case.hidden, case.ids, case.weights, experts, case.loras, SCALING,
        dtype=DOUBLE, progress=lambda used: seen.extend(used) or used,
    )  # fmt: skip
    close(result.output, case.reference().output)
    assert seen == [0, 1, 2, 3]


def test_no_tokens_and_ids_out_of_range():
    case = Case()
    nothing = moe_reference(
        case.hidden[:0], case.ids[:0], case.weights[:0], case.experts, grad_output=case.hidden[:0]
    )
    assert nothing.output.shape == nothing.grad_input.shape == (0, HIDDEN)
    case.ids[3, 0] = EXPERTS
    with pytest.raises(ValueError, match="expert_ids holds 5, but there are 5 experts"):
        case.reference()


def test_relative_error_is_mean_over_mean():
    actual, expected = torch.tensor([1.0, -2.0, 5.0]), torch.tensor([1.0, -4.0, 3.0])
    assert compute_relative_error(actual, expected) == pytest.approx(4 / 8)
    assert compute_relative_error(expected, expected) == 0
    assert isinstance(compute_relative_error(actual, expected), float)


def test_relative_error_of_bf16_is_not_rounded():
    expected = torch.full((1000,), 256.0)
    expected[0] = 257.0
    actual = expected.to(torch.bfloat16)
    assert compute_relative_error(actual, expected) == pytest.approx(1 / 256001)
    assert compute_relative_error(actual, actual.clone()) == 0


def test_relative_error_passes_no_limit_on_nan_nor_on_a_zero_reference():
    zero, one = torch.zeros(3), torch.ones(3)
    assert not compute_relative_error(torch.tensor([1.0, float("nan"), 1.0]), one) < 1e9
    assert not compute_relative_error(one, zero) < 1e9
    assert not compute_relative_error(zero, zero) < 1e9
    with pytest.raises(ValueError, match=r"shape \[3\].*has \[1\]"):
        compute_relative_error(one, one[:1])


def test_synthetic_experts_are_distinct_and_repeatable():
    experts = SyntheticExperts(6, 40, 24, seed=3)
    again = SyntheticExperts(6, 40, 24, seed=3)
    for e, (gate, up, down) in enumerate(experts):
        assert gate.shape == up.shape == (24, 40)
        assert down.shape == (40, 24)
        assert gate.is_contiguous()
        assert gate.dtype == torch.bfloat16
        assert torch.equal(gate, again[e][0])
        assert torch.equal(down, again[e][2])
        assert not torch.equal(gate, up)
        for other in range(e):
            shared = set(map(tuple, gate.tolist())) & set(map(tuple, experts[other][0].tolist()))
            assert not shared
    assert not torch.equal(experts[0][0], SyntheticExperts(6, 40, 24, seed=4)[0][0])
    assert torch.equal(experts.to(DOUBLE)[5][2], experts[5][2].to(DOUBLE))
    with pytest.raises(IndexError, match="expert is 6, must be from 0 to 5"):
        experts[6]


def test_synthetic_weights_have_the_variance_of_their_fan_in():
    gate, up, down = SyntheticExperts(2, 512, 256, dtype=torch.float32)[1]
    for weight, fan_in in ((gate, 512), (up, 512), (down, 256)):
        assert weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.02)
        assert abs(weight.mean().item()) < 0.02 * fan_in**-0.5


def test_synthetic_routing_is_balanced():
    inputs = make_inputs(16, 32, 8, 4, seed=1)
    counts = torch.bincount(inputs.expert_ids.flatten(), minlength=32)
    assert counts.tolist() == [4] * 32
    assert all(len(set(row)) == 8 for row in inputs.expert_ids.tolist())
    torch.testing.assert_close(inputs.weights.sum(1), torch.ones(16))
    with pytest.raises(ValueError, match="top_k is 9, more than the 8 experts"):
        make_inputs(4, 8, 9, 4)


def test_lora_shapes_follow_the_names():
    assert lora_shapes(2, 8, 6, 3) == {
        "gate_lora_a": (2, 3, 8), "gate_lora_b": (2, 6, 3),
        "up_lora_a": (2, 3, 8), "up_lora_b": (2, 6, 3),
        "down_lora_a": (2, 3, 6), "down_lora_b": (2, 8, 3),
    }  # fmt: skip
    loras = make_loras(2, 8, 6, 3)
    assert {n: tuple(t.shape) for n, t in loras.items()} == lora_shapes(2, 8, 6, 3)
    assert all(isinstance(t, Tensor) and torch.any(t != 0) for t in loras.values())
