"""The errors that the methods may have, against a float32 reference.

Error is mean|a-b| / mean|b|. Against the weights as they came it is held to the targets in
`kt_kernel.methods`, on the shape that they are for; against the weights that the layer holds, which
leaves what the kernels do, to 1.2%; on weights that round badly, and for the gradient of the
routing weights, which has no target, to what a method may never pass.
"""

import dataclasses
from functools import cache

import pytest
import torch
from conftest import SUPPORTED
from integer_model import FORMATS
from native_layer import Problem, Results, Sizes, make_layer, make_problem, reference, step

from kt_kernel.methods import METHODS, TARGET_KERNEL, TARGETS_GROUP_32
from kt_kernel.reference import compute_relative_error

KERNEL_AT_WORST = 0.015  # of the output, for weights that round badly
SHAPES = {
    "S1": Sizes(16, 2048, 1408, top_k=6, tokens=128, rank=16),
    "DeepSeek-V3-widths": Sizes(2, 7168, 2048, top_k=2, tokens=16, rank=16),
    # For what needs seconds at full size: an eighth of S1's experts, as many tokens for each.
    "few-experts": Sizes(2, 2048, 1408, top_k=2, tokens=48, rank=16),
}
BEST = SUPPORTED[0]  # runs at full size; the others, which compute the same, with few experts
# What 4 bits lose of such weights is more than the method may: 25%.
HOPELESS = {("student_t", "int4_kgroup_g128")}
METHOD_OF = {each.format: each for each in METHODS.values() if each.sft}
INTEGERS = {str(form): form for form in FORMATS if form.group != 64}
NAMES = ["bf16", *INTEGERS]
names = pytest.mark.parametrize("name", NAMES)


def student(shape: tuple[int, ...], degrees: float, draw: torch.Generator) -> torch.Tensor:
    chi = torch.zeros(shape)
    for _ in range(int(degrees)):
        chi += torch.randn(shape, generator=draw).square()
    return torch.randn(shape, generator=draw) / (chi / degrees).sqrt()


def changed(problem: Problem, kind: str) -> Problem:
    """The problem with weights that are not normal, but as large."""
    draw = torch.Generator().manual_seed(1)

    def weights(normal):
        if kind == "student_t":
            values = student(tuple(normal.shape), 4, draw)
            return (values / values.square().mean().sqrt() * normal.shape[1] ** -0.5).bfloat16()
        rows = torch.rand(normal.shape[0], 1, generator=draw) < 0.02
        return torch.where(rows, 16 * normal, normal)

    return dataclasses.replace(
        problem, experts=[tuple(map(weights, expert)) for expert in problem.experts]
    )


@cache
def problem_of(shape: str, kind: str = "") -> Problem:
    """With as many tokens for each expert."""
    sizes = SHAPES[shape]
    problem = make_problem(sizes)
    problem.ids = torch.arange(sizes.tokens * sizes.top_k).view(sizes.tokens, -1) % sizes.experts
    return changed(problem, kind) if kind else problem


@cache
def expected_of(shape: str, kind: str = "", name: str = "", isa: str = "") -> Results:
    """By the weights as they came or, where a format is named, as it holds them. Instruction sets
    add in orders of their own, so two scales of almost the same worth may change places."""
    problem = problem_of(shape, kind)
    if name:
        form = INTEGERS[name]
        experts = [
            tuple(torch.from_numpy(form.roundtrip(isa, w.float().numpy())) for w in expert)
            for expert in problem.experts
        ]
        problem = dataclasses.replace(problem, experts=experts)
    return reference(problem, torch.float32)


def errors(results: Results, expected: Results) -> dict[str, float]:
    """Of the output, the gradients of input and routing weights, and the worst of the adapters."""
    found = {
        name: compute_relative_error(actual, wanted)
        for (name, actual), wanted in zip(
            results.named().items(), expected.named().values(), strict=True
        )
    }
    adapters = [found.pop(name) for name in list(found) if name.startswith("grad_lora")]
    return {**found, "grad_lora": max(adapters)}


def assert_errors(found: dict[str, float], most: dict[str, float]) -> None:
    told = ", ".join(f"{name} {error:.4%} of {most[name]:.2%}" for name, error in found.items())
    assert all(error <= most[name] for name, error in found.items()), told


def targets(name: str) -> dict[str, float]:
    form = INTEGERS.get(name)
    method = METHOD_OF[form.name if form else name]
    found = {
        "output": method.target_output,
        "grad_input": method.target_grad_input,
        "grad_lora": method.target_grad_lora,
    }
    most = TARGETS_GROUP_32 if form and form.group == 32 else found
    return {**most, "grad_weights": method.backward_limit}


def limits(name: str) -> dict[str, float]:
    form = INTEGERS.get(name)
    method = METHOD_OF[form.name if form else name]
    gradients = dict.fromkeys(("grad_input", "grad_lora", "grad_weights"), method.backward_limit)
    return {"output": method.forward_limit, **gradients}


def computed(isa: str, name: str, problem: Problem) -> Results:
    form = INTEGERS.get(name)
    options = {"format": form.name, "group_size": form.group or 128} if form else {}
    layer = make_layer(problem, **options)
    results = step(layer, problem)
    assert layer.isa == isa
    return results


def assert_kernels(
    results: Results, isa: str, shape: str, kind: str, name: str, most: float
) -> None:
    if name in INTEGERS:
        found = errors(results, expected_of(shape, kind, name, isa))["output"]
        assert found <= most, f"{found:.4%} of {most:.2%}"


@names
def test_targets(isa, name):
    shape = "S1" if isa == BEST else "few-experts"
    results = computed(isa, name, problem_of(shape))
    assert_errors(errors(results, expected_of(shape)), targets(name))
    assert_kernels(results, isa, shape, "", name, TARGET_KERNEL)


@names
def test_other_widths(name):
    """S1's targets, but for one: the longer a row, the larger its largest weight, which a scale for
    the whole row follows (docs/rounding.md)."""
    shape = "DeepSeek-V3-widths"
    results = computed(BEST, name, problem_of(shape))
    most = targets(name) | ({"output": 0.019} if name == "int8" else {})
    assert_errors(errors(results, expected_of(shape)), most)
    assert_kernels(results, BEST, shape, "", name, TARGET_KERNEL)


@names
@pytest.mark.parametrize("kind", ["student_t", "outlier_rows"])
def test_weights_that_round_badly(isa, name, kind):
    shape = "few-experts"
    results = computed(isa, name, problem_of(shape, kind))
    if (kind, name) not in HOPELESS:
        assert_errors(errors(results, expected_of(shape, kind)), limits(name))
    assert_kernels(results, isa, shape, kind, name, KERNEL_AT_WORST)
