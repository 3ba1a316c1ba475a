"""Time over what the machine could do, and over PyTorch, everything measured in the same process.

A ratio survives another machine, and a noisy hour, better than a time does.
"""

from time import perf_counter

import torch
from torch.nn.functional import silu

from . import timing, units
from .case import Case, finite, native
from .presets import FORMATS, PARAM_NAMES, SFT_PARAMS, Format, Preset

PASSES = ("forward", "forward+backward")
# Turns of the layer and the machine's limits: 31, but of calls so long that they take more than
# SECONDS, such as S3's, no more than that holds or the least.
TURNS, LEAST_TURNS, SECONDS = 31, 7, 4.0


def floating_point_operations(shape: Preset, passes: str) -> int:
    """2 per multiply-add, over all routed tokens.

    The base weights are multiplied once per pass: they are frozen, so backward makes only the
    gradient of the input. LoRA is multiplied three times in all, its own gradient being the third.
    """
    pairs = shape.tokens * shape.top_k
    base = 2 * 3 * shape.hidden * shape.intermediate * pairs
    lora = 2 * 3 * shape.lora_rank * (shape.hidden + shape.intermediate) * pairs
    return base + lora if passes == "forward" else 2 * base + 3 * lora


def weight_bytes(shape: Preset, passes: str, bytes_per_weight: float) -> float:
    """Bytes of base weights that must be read: all in every pass, as every expert has tokens."""
    return shape.weights * bytes_per_weight * (1 if passes == "forward" else 2)


# Other work on the machine only makes its limits look lower: the best of some counts.
def peak(products: str, threads: int, milliseconds: int = 50, best_of: int = 3) -> float:
    """Operations per second of such products, "bf16" say, in registers."""
    return max(units.peak(products, threads, milliseconds) for _ in range(best_of))


def bandwidth(threads: int, mebibytes: int = 256, best_of: int = 3) -> float:
    """Bytes per second that all threads together read from memory."""
    return max(native().read_bandwidth(threads, mebibytes) for _ in range(best_of))


def roof_seconds(
    shape: Preset, passes: str, held: Format, operations: float, bytes_read: float
) -> float:
    """The least time of the passes on a machine of these limits, both per second."""
    return max(
        floating_point_operations(shape, passes) / operations,
        weight_bytes(shape, passes, held.bytes_per_weight) / bytes_read,
    )


def fastest_type() -> torch.dtype:
    """In which PyTorch trains fastest here: bf16 where the CPU has instructions for it.

    Without them a step in bf16 takes 1.2 to 65 times as long as one in float32 (docs/peers.md).
    """
    capabilities = torch.cpu.get_capabilities()
    has_bf16 = capabilities["avx512_bf16"] or capabilities["amx_bf16"]
    return torch.bfloat16 if has_bf16 else torch.float32


class GroupedMM:
    """The layer in PyTorch, in the given type: torch._grouped_mm over tokens sorted by expert.

    Of PyTorch's eager ways the fastest on CPUs with bf16 instructions.
    """

    def __init__(self, case: Case, dtype: torch.dtype) -> None:
        self.case = case
        self.x = case.batch.hidden_states.to(dtype, copy=True).requires_grad_()
        self.lora = [tensor.to(dtype, copy=True).requires_grad_() for tensor in case.lora]
        self.weights = [torch.stack(matrices).to(dtype) for matrices in case.weights]
        self.grad_output = case.batch.grad_output.to(dtype)

    def run(self) -> torch.Tensor:
        batch, shape = self.case.batch, self.case.shape
        gate, up, down = self.weights
        gate_a, gate_b, up_a, up_b, down_a, down_b = self.lora
        flat = batch.expert_ids.flatten()
        order = flat.argsort(stable=True)
        token = order // shape.top_k
        ends = torch.bincount(flat, minlength=shape.experts).cumsum(0).to(torch.int32)

        def product(value, weight):
            return torch._grouped_mm(value, weight.transpose(-2, -1), offs=ends)

        def project(value, weight, a, b):
            return product(value, weight) + shape.lora_scaling * product(product(value, a), b)

        x = self.x[token]
        hidden = silu(project(x, gate, gate_a, gate_b)) * project(x, up, up_a, up_b)
        y = project(hidden, down, down_a, down_b) * batch.weights.flatten()[order, None].to(x.dtype)
        output = torch.zeros(self.x.shape, dtype=torch.float32)
        return output.index_add_(0, token, y.float()).to(x.dtype)

    def forward(self) -> None:
        with torch.no_grad():
            self.run()

    def forward_backward(self) -> None:
        """Both passes; the gradients are thrown away."""
        torch.autograd.grad(self.run(), [self.x, *self.lora], self.grad_output)


class Roofline:
    """A forward that saves nothing, and a forward that saves with its backward."""

    params = (*SFT_PARAMS, PASSES)
    param_names = (*PARAM_NAMES, "passes")
    version = "5"

    def setup(self, method, preset, passes):
        self.case = Case(method, preset).load()

    def step(self) -> None:
        self.case.forward(save=True)
        self.case.backward()

    def track_times_over_roofline(self, method, preset, passes):
        held, threads = FORMATS[method], native().cpu_count()
        ours = self.case.forward if passes == "forward" else self.step
        ours()
        ratios = []
        # What slows the machine for a moment lowers its roof as well. One call a turn, so that the
        # weights come from memory: what is read for its bandwidth took their place in the caches.
        end = perf_counter() + SECONDS
        while len(ratios) < LEAST_TURNS or (len(ratios) < TURNS and perf_counter() < end):
            limits = peak(held.products, threads, 5, best_of=1), bandwidth(threads, 128, best_of=1)
            seconds = timing.clock(ours)
            ratios.append(seconds / roof_seconds(self.case.shape, passes, held, *limits))
        return finite(timing.middle_mean(ratios), "time over the roofline")

    track_times_over_roofline.unit = "x"

    def track_times_over_torch(self, method, preset, passes):
        peer = GroupedMM(self.case, fastest_type())
        pair = (self.case.forward, peer.forward)
        if passes == "forward+backward":
            pair = (self.step, peer.forward_backward)
        return finite(timing.ratio(*pair, seconds=2.0), "time over torch")

    track_times_over_torch.unit = "x"
    track_times_over_torch.version = "5"
