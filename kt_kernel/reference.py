"""What the layer should compute, in plain PyTorch: the yardstick of every test and benchmark.

`moe_sft_torch_forward` is the definition, one token and one expert at a time. `moe_reference`
computes the same in float32 or float64 one expert at a time, with every gradient, fast enough
for full-size layers. `compute_relative_error` is the only measure of error in this project.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu

LORA_NAMES = (
    "gate_lora_a",
    "gate_lora_b",
    "up_lora_a",
    "up_lora_b",
    "down_lora_a",
    "down_lora_b",
)
Expert = tuple[Tensor, Tensor, Tensor]
"""gate [inter, hidden], up [inter, hidden], down [hidden, inter] of one expert."""


def lora_shapes(
    num_experts: int, hidden_size: int, intermediate_size: int, rank: int
) -> dict[str, tuple[int, int, int]]:
    """Shapes of the six LoRA tensors, by name, in the order of `LORA_NAMES`."""
    wide, narrow = hidden_size, intermediate_size
    shapes = (
        (num_experts, rank, wide),
        (num_experts, narrow, rank),
        (num_experts, rank, wide),
        (num_experts, narrow, rank),
        (num_experts, rank, narrow),
        (num_experts, wide, rank),
    )
    return dict(zip(LORA_NAMES, shapes, strict=True))


def compute_relative_error(amx_output: Tensor, torch_output: Tensor) -> float:
    """mean|amx_output - torch_output| / mean|torch_output|, over tensors of one shape.

    Computed in float32 at least, with float64 means, so that bf16 inputs do not round the answer.
    NaN where both are zero everywhere or where either holds NaN; a NaN passes no `error < limit`.
    """
    if amx_output.shape != torch_output.shape:
        raise ValueError(
            f"amx_output has shape {list(amx_output.shape)}, "
            f"torch_output has {list(torch_output.shape)}: they must be equal"
        )
    wide = torch.promote_types(torch.float32, torch_output.dtype)
    expected = torch_output.detach().to(wide)
    diff = (amx_output.detach().to(wide) - expected).abs().mean(dtype=torch.float64)
    base = expected.abs().mean(dtype=torch.float64)
    return (diff / base).item()


def moe_sft_torch_forward(
    hidden_states: Tensor,
    expert_ids: Tensor,
    weights: Tensor,
    gate_weight: Tensor | Sequence[Tensor],
    up_weight: Tensor | Sequence[Tensor],
    down_weight: Tensor | Sequence[Tensor],
    gate_lora_a: Tensor,
    gate_lora_b: Tensor,
    up_lora_a: Tensor,
    up_lora_b: Tensor,
    down_lora_a: Tensor,
    down_lora_b: Tensor,
    lora_scaling: float,
) -> Tensor:
    """The layer by its definition, token by token, in the dtype of its inputs. Slow.

    hidden_states [qlen, hidden]; expert_ids and weights [qlen, k]; gate_weight, up_weight
    [E, inter, hidden]; down_weight [E, hidden, inter]; LoRA tensors as in `lora_shapes`.
    Returns [qlen, hidden]. Differentiable in everything but `weights`, which are read as numbers.
    A negative expert id skips its slot.
    """
    output = torch.zeros_like(hidden_states)
    for token in range(hidden_states.shape[0]):
        x = hidden_states[token : token + 1]
        for slot in range(expert_ids.shape[1]):
            expert = int(expert_ids[token, slot].item())
            if expert < 0:
                continue
            gate = x @ gate_weight[expert].T
            gate = gate + (x @ gate_lora_a[expert].T) @ gate_lora_b[expert].T * lora_scaling
            up = x @ up_weight[expert].T
            up = up + (x @ up_lora_a[expert].T) @ up_lora_b[expert].T * lora_scaling
            act = silu(gate) * up
            down = act @ down_weight[expert].T
            down = down + (act @ down_lora_a[expert].T) @ down_lora_b[expert].T * lora_scaling
            output[token] += down.squeeze(0) * weights[token, slot].item()
    return output


@dataclass(frozen=True)
class MoEReference:
    """Results of `moe_reference`; the gradients are None where no grad_output was given."""

    output: Tensor
    grad_input: Tensor | None = None
    grad_loras: dict[str, Tensor] | None = None
    grad_weights: Tensor | None = None


def moe_reference(
    hidden_states: Tensor,
    expert_ids: Tensor,
    weights: Tensor,
    experts: Sequence[Expert],
    loras: Mapping[str, Tensor] | None = None,
    lora_scaling: float = 1.0,
    *,
    grad_output: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[list[int]], Iterable[int]] = iter,
) -> MoEReference:
    """The layer in `dtype` (float32 or float64), one expert at a time over all its tokens.

    experts: `experts[e]` is the (gate, up, down) of expert e in any dtype, stored or made when
    asked for; `list(zip(gate_proj, up_proj, down_proj))` turns stacked tensors into that.
    loras: the six tensors of `lora_shapes` by name; None for a layer without adapters.
    expert_ids: int64 or int32 [qlen, k], in any number a token may name an expert twice;
    negative ids skip their slot, and the gradient of its routing weight is zero.
    grad_output [qlen, hidden]: asks for the gradients of hidden_states, weights and, by the names
    "grad_" + LoRA name, of each LoRA tensor. Everything comes back in `dtype`.
    progress: wraps the list of experts in use, tqdm for one.

    With s = lora_scaling, r the routing weight of the slot and ' for transposition, per expert:
        G = X Wg' + s (X Ag') Bg'    U alike    H = silu(G) * U    Y = H Wd' + s (H Ad') Bd'
        out[t] += r Y    dY = r dOut[t]    dr = <dOut[t], Y>    silu'(G) = sig(G) (1 + G (1-sig(G)))
    The gradients are written out by hand, so that torch.autograd can be held against them.
    """
    qlen, hidden_size = hidden_states.shape
    num_experts = len(experts)
    if loras is None:
        inter = experts[0][0].shape[0]
        shapes = lora_shapes(num_experts, hidden_size, inter, 0)
        loras = {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
    hidden = hidden_states.detach().to(dtype)
    routing = weights.detach().to(dtype)
    upstream = None if grad_output is None else grad_output.detach().to(dtype)
    output = torch.zeros(qlen, hidden_size, dtype=dtype)
    grad_input = torch.zeros_like(output)
    grad_weights = torch.zeros_like(routing)
    grad_loras: dict[str, Tensor] = {}
    if upstream is not None:
        for name in LORA_NAMES:
            grad_loras[f"grad_{name}"] = torch.zeros(loras[name].shape, dtype=dtype)

    used = sorted({expert for expert in expert_ids.flatten().tolist() if expert >= 0})
    if used and used[-1] >= num_experts:
        raise ValueError(f"expert_ids holds {used[-1]}, but there are {num_experts} experts")
    for expert in progress(used):
        token, slot = (expert_ids == expert).nonzero(as_tuple=True)
        w_gate, w_up, w_down = (weight.to(dtype) for weight in experts[expert])
        a_gate, b_gate, a_up, b_up, a_down, b_down = (
            loras[name][expert].detach().to(dtype) for name in LORA_NAMES
        )
        x, r = hidden[token], routing[token, slot].unsqueeze(1)
        gate = _project(x, w_gate, a_gate, b_gate, lora_scaling)
        up = _project(x, w_up, a_up, b_up, lora_scaling)
        act = silu(gate) * up
        down = _project(act, w_down, a_down, b_down, lora_scaling)
        output.index_add_(0, token, r * down)
        if upstream is None:
            continue

        d_out = upstream[token]
        grad_weights[token, slot] = (d_out * down).sum(1)
        sig = torch.sigmoid(gate)
        d_act, d_a_down, d_b_down = _project_backward(
            r * d_out, act, w_down, a_down, b_down, lora_scaling
        )
        d_gate = d_act * up * sig * (1 + gate * (1 - sig))
        d_x_gate, d_a_gate, d_b_gate = _project_backward(
            d_gate, x, w_gate, a_gate, b_gate, lora_scaling
        )
        d_up = d_act * silu(gate)
        d_x_up, d_a_up, d_b_up = _project_backward(d_up, x, w_up, a_up, b_up, lora_scaling)
        grad_input.index_add_(0, token, d_x_gate + d_x_up)
        for name, grad in zip(
            LORA_NAMES, (d_a_gate, d_b_gate, d_a_up, d_b_up, d_a_down, d_b_down), strict=True
        ):
            grad_loras[f"grad_{name}"][expert] = grad

    if upstream is None:
        return MoEReference(output)
    return MoEReference(output, grad_input, grad_loras, grad_weights)


def _project(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """Computes x W' + s (x A') B'."""
    return x @ weight.T + scaling * ((x @ a.T) @ b.T)


def _project_backward(
    d_y: Tensor, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `_project` for x, A and B: dY W + s (dY B) A, s (dY B)' x, s dY' (x A')."""
    d_low = scaling * (d_y @ b)
    return d_y @ weight + d_low @ a, d_low.T @ x, scaling * (d_y.T @ (x @ a.T))
