"""A problem for the native layer, with nothing of the Python package between: the layer's answer
and float64 PyTorch's, gradients by torch.autograd."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from kt_kernel._native import ext

SCALING = 2.0


@dataclass(frozen=True)
class Sizes:
    experts: int = 4
    hidden: int = 70
    inter: int = 54
    top_k: int = 2
    tokens: int = 9
    rank: int = 5

    def __str__(self) -> str:
        names = zip("EHIkTr", dataclasses.astuple(self), strict=True)
        return "-".join(f"{name}{size}" for name, size in names)


@dataclass
class Problem:
    sizes: Sizes
    experts: list[tuple[Tensor, Tensor, Tensor]]  # gate, up [I, H], down [H, I]
    loras: list[Tensor]  # gate_a, gate_b, up_a, up_b, down_a, down_b; none for rank 0
    x: Tensor  # [T, H]
    ids: Tensor  # [T, k]
    weights: Tensor  # [T, k]
    grad_output: Tensor  # [T, H]


@dataclass
class Results:
    output: Tensor
    grad_input: Tensor
    grad_loras: list[Tensor]
    grad_weights: Tensor

    def named(self) -> dict[str, Tensor]:
        loras = {f"grad_lora_{i}": grad for i, grad in enumerate(self.grad_loras)}
        return {
            "output": self.output,
            "grad_input": self.grad_input,
            **loras,
            "grad_weights": self.grad_weights,
        }


def same_bits(results: Results, expected: Results) -> bool:
    pairs = zip(results.named().values(), expected.named().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def make_problem(
    sizes: Sizes,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    lora_dtype: torch.dtype = torch.bfloat16,
    weight_dtype: torch.dtype = torch.bfloat16,
) -> Problem:
    """Of random numbers that bfloat16 holds, whatever the dtype. Ids are drawn freely: a token may
    name an expert twice, and experts may stay without tokens."""
    draw = torch.Generator().manual_seed(seed)
    E, H, I, k, T, r = dataclasses.astuple(sizes)  # noqa: E741

    def normal(*shape, fan_in=1.0):
        return (torch.randn(shape, generator=draw) / fan_in**0.5).bfloat16()

    def expert():
        return tuple(normal(n, m, fan_in=m).to(weight_dtype) for n, m in [(I, H), (I, H), (H, I)])

    pairs = [(H, I), (H, I), (I, H)]  # what each adapter takes and gives
    loras = [
        t.to(lora_dtype)
        for a, b in pairs
        for t in (normal(E, r, a, fan_in=a), normal(E, b, r, fan_in=400))
    ]
    return Problem(
        sizes,
        [expert() for _ in range(E)],
        loras if r else [],
        normal(T, H).to(dtype),
        torch.randint(0, E, (T, k), generator=draw),
        torch.softmax(normal(T, k).float(), -1),
        normal(T, H).to(dtype),
    )


def view(tensor: Tensor | None, name: str = "tensor"):
    """As the extension wants it."""
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    dtype = str(tensor.dtype).removeprefix("torch.")
    return ext.Tensor(name, tensor.data_ptr(), dtype, list(tensor.shape))


def make_layer(problem: Problem, **options):
    """A layer with the problem's weights and adapters."""
    s = problem.sizes
    layer = ext.Layer(
        num_experts=s.experts,
        hidden_size=s.hidden,
        intermediate_size=s.inter,
        top_k=s.top_k,
        lora_rank=s.rank,
        lora_scaling=SCALING,
        **options,
    )
    for slot, weights in enumerate(problem.experts):
        layer.load_expert(slot, *map(view, weights))
    if problem.loras:
        layer.set_lora([view(t) for t in problem.loras])
    return layer


def unwritten(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """For a result: what is not written shows as NaN."""
    return torch.full(tensor.shape, torch.nan, dtype=dtype or tensor.dtype)


def forward(layer, problem: Problem, save: bool = True, skip: Tensor | None = None):
    """The output, and the ticket for `backward`."""
    output = unwritten(problem.x)
    inputs = (view(t) for t in (problem.x, problem.ids, problem.weights, output))
    return output, layer.forward(*inputs, save, view(skip))


def backward(layer, problem: Problem, output: Tensor, ticket: int) -> Results:
    """All gradients, beside the output of the forward pass."""
    grad_loras = [unwritten(t) for t in problem.loras]
    results = Results(
        output,
        unwritten(problem.grad_output),
        grad_loras,
        unwritten(problem.weights, torch.float32),
    )
    layer.backward(
        ticket,
        view(problem.grad_output),
        view(results.grad_input),
        [view(t) for t in grad_loras],
        view(results.grad_weights),
    )
    return results


def step(layer, problem: Problem, skip: Tensor | None = None) -> Results:
    """Forward and backward."""
    return backward(layer, problem, *forward(layer, problem, skip=skip))


def reference(problem: Problem, dtype: torch.dtype = torch.float64) -> Results:
    """The same in float64, one expert after another, with gradients by torch.autograd."""
    x, weights, *loras = (
        t.detach().to(dtype).requires_grad_() for t in (problem.x, problem.weights, *problem.loras)
    )

    def project(rows, weight, adapter, e):
        base = linear(rows, weight.to(dtype))
        if not loras:
            return base
        a, b = loras[2 * adapter][e], loras[2 * adapter + 1][e]
        return base + SCALING * linear(linear(rows, a), b)

    output = torch.zeros(x.shape, dtype=dtype)
    for e, (gate, up, down) in enumerate(problem.experts):
        token, place = (problem.ids == e).nonzero(as_tuple=True)
        h = silu(project(x[token], gate, 0, e)) * project(x[token], up, 1, e)
        y = project(h, down, 2, e) * weights[token, place, None]
        output = output.index_add(0, token, y)
    grads = torch.autograd.grad(output, [x, weights, *loras], problem.grad_output.to(dtype))
    return Results(output.detach(), grads[0], list(grads[2:]), grads[1])
