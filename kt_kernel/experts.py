"""`KTMoEWrapper`: the Mixture-of-Experts layer as its users see it."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Literal, overload

import torch

from . import checks
from ._native import ext
from .codes import CodeFormat
from .kinds import shapes
from .loading import LoadingCalls
from .lora import Gradients, LoraTensors
from .methods import resolve
from .reference import lora_shapes
from .tickets import SavedForwards, TicketCalls

ext.share_openmp_threads()  # PyTorch's, which is loaded by now

Grads = tuple[torch.Tensor, Gradients]
AllGrads = tuple[torch.Tensor, Gradients, torch.Tensor]


class KTMoEWrapper(LoadingCalls, TicketCalls):
    """A Mixture-of-Experts layer over frozen expert weights, with LoRA on gate, up and down.

    With s = lora_alpha / lora_rank, expert e computes on its tokens X

        G = X Wg' + s (X Ag') Bg'    U = X Wu' + s (X Au') Bu'
        H = silu(G) * U              Y = H Wd' + s (H Ad') Bd'

    and a token's output is the sum of its experts' Y, weighted by the routing weights.

    Args:
        layer_idx: which layer of a checkpoint `load_weights` reads.
        num_experts, num_experts_per_tok, hidden_size, moe_intermediate_size: the layer's sizes
            E, k, H and I; any size from 1, multiples required by groups only.
        mode: "sft" or "inference"; left out, it follows from the method.
        method: a key of `kt_kernel.methods.METHODS`.
        lora_rank, lora_alpha: of the LoRA adapters (SFT methods only).
        max_cache_depth: how many saved forwards may wait for their backward.
        cpuinfer_threads: threads to compute with; None, or more than that: every core this process
            may use.
        threadpool_count: tensor parallel parts, along moe_intermediate_size, which it must divide.
        chunked_prefill_size: tokens worked through at a time: bounds scratch memory, not qlen.
        weight_path: a safetensors file or a folder of them, for `load_weights`.
        group_size: weights per scale for the methods that have groups: 32, 64 or 128, of which
            H, and I / threadpool_count, must be multiples. The other methods ignore it.
        gpu_experts_mask: bool [E]; marked experts are computed elsewhere and skipped here.
        num_gpu_experts: without a mask, the first so many experts are the GPU's.
        offload_folder: a folder on disk. The packed weights lie in a nameless file there, mapped
            into memory, and the system keeps as much of it in memory as there is room for: a layer
            may be larger than memory, at the disk's speed. Loading raises OSError where the disk
            has no room.
        **unbuilt: kt-kernel's keywords that are not built yet, accepted at the value that asks for
            nothing (`kt_kernel.checks.NEUTRAL`): cpu_save, full_weight_grad, lora_dropout, ...

    Raises TypeError, ValueError or NotImplementedError, naming the argument. Every method may be
    called from several threads at once; calls on one layer take turns.
    """

    def __init__(
        self,
        layer_idx: int,
        num_experts: int,
        num_experts_per_tok: int,
        hidden_size: int,
        moe_intermediate_size: int,
        *,
        mode: str | None = None,
        method: str = "AMXBF16_SFT",
        lora_rank: int = 16,
        lora_alpha: float = 32.0,
        max_cache_depth: int = 1,
        cpuinfer_threads: int | None = None,
        threadpool_count: int = 1,
        chunked_prefill_size: int = 25600,
        weight_path: str | os.PathLike[str] = "",
        group_size: int = 128,
        gpu_experts_mask: torch.Tensor | None = None,
        num_gpu_experts: int = 0,
        offload_folder: str | os.PathLike[str] | None = None,
        **unbuilt: object,
    ) -> None:
        checks.refuse_unbuilt(unbuilt)
        self._method = resolve(method, mode)
        self.method = method
        self.mode = self._method.mode
        self.layer_idx = checks.integer("layer_idx", layer_idx, 0)
        self.num_experts = checks.size("num_experts", num_experts)
        self.num_experts_per_tok = checks.size("num_experts_per_tok", num_experts_per_tok)
        self.hidden_size = checks.size("hidden_size", hidden_size)
        self.moe_intermediate_size = checks.size("moe_intermediate_size", moe_intermediate_size)
        most = checks.LORA_RANK if self._method.sft else checks.SIZE
        self.lora_rank = checks.integer("lora_rank", lora_rank, high=most)
        self.lora_alpha = checks.positive("lora_alpha", lora_alpha)
        self.lora_scaling = checks.scaling(self.lora_alpha, self.lora_rank)
        self.max_cache_depth = checks.size("max_cache_depth", max_cache_depth)
        threads = ext.cpu_count() if cpuinfer_threads is None else cpuinfer_threads
        self.cpuinfer_threads = checks.integer("cpuinfer_threads", threads)
        self.threadpool_count = checks.integer("threadpool_count", threadpool_count)
        if self.moe_intermediate_size % self.threadpool_count:
            raise ValueError(
                f"threadpool_count={threadpool_count} does not divide "
                f"moe_intermediate_size={moe_intermediate_size}"
            )
        self.chunked_prefill_size = checks.integer("chunked_prefill_size", chunked_prefill_size)
        self.weight_path = weight_path
        self.group_size = checks.integer("group_size", group_size)
        self._codes = CodeFormat.of(self._method.format, self.group_size)
        if self._codes is not None and self._codes.group:
            checks.group_size(
                self.group_size,
                self.hidden_size,
                self.moe_intermediate_size,
                self.threadpool_count,
            )
        self._mask = checks.gpu_mask(gpu_experts_mask, num_gpu_experts, self.num_experts)
        self.num_gpu_experts = 0
        self._skip: ext.Tensor | None = None
        if self._mask is not None:
            self.num_gpu_experts = int(self._mask.sum())
            self._skip = checks.own("gpu_experts_mask", self._mask)
        self.offload_folder = checks.folder("offload_folder", offload_folder)
        self._shapes = shapes(self.hidden_size, self.moe_intermediate_size)
        sizes = self.num_experts, self.hidden_size, self.moe_intermediate_size, self.lora_rank
        self._lora = LoraTensors(lora_shapes(*sizes)) if self._method.sft else None
        self._weights_loaded = False
        self._saved = SavedForwards()
        self._lock = threading.RLock()
        self._layer: ext.Layer | None = ext.Layer(
            num_experts=self.num_experts,
            hidden_size=self.hidden_size,
            intermediate_size=self.moe_intermediate_size,
            top_k=self.num_experts_per_tok,
            format=self._method.format,
            group_size=self.group_size,
            lora_rank=self.lora_rank if self._method.sft else 0,
            lora_scaling=self.lora_scaling,
            parts=self.threadpool_count,
            threads=min(self.cpuinfer_threads, ext.cpu_count()),  # more would wait for each other
            cache_depth=self.max_cache_depth,
            chunk_tokens=self.chunked_prefill_size,
            folder=os.fsencode(self.offload_folder),
        )

    @property
    def gpu_experts_mask(self) -> torch.Tensor | None:
        """The experts that are computed elsewhere, True in a bool [E]; None: none are."""
        return self._mask

    def init_lora_weights(
        self,
        gate_lora_a: torch.Tensor,
        gate_lora_b: torch.Tensor,
        up_lora_a: torch.Tensor,
        up_lora_b: torch.Tensor,
        down_lora_a: torch.Tensor,
        down_lora_b: torch.Tensor,
    ) -> None:
        """Takes the LoRA tensors, contiguous, all six bfloat16 or all six float32.

        gate_lora_a, up_lora_a [E, r, H]; gate_lora_b, up_lora_b [E, I, r]; down_lora_a [E, r, I];
        down_lora_b [E, H, r]. They are not copied: every forward and backward reads them as they
        are then, so in-place changes count at once, and a tensor whose `.data` was replaced is
        followed to its new memory.

        Raises TypeError or ValueError, after which the tensors set before still hold; RuntimeError
        for inference methods.
        """
        lora = self._adapters("init_lora_weights")
        tensors = gate_lora_a, gate_lora_b, up_lora_a, up_lora_b, down_lora_a, down_lora_b
        lora.set(self._open(), tensors)

    def update_lora_weights(self) -> None:
        """Checks the LoRA tensors anew, as after `optimizer.step()`.

        Values never need it, for the layer reads the caller's memory. Raises TypeError or
        ValueError when a tensor's data was replaced by something unfit or its storage was freed,
        RuntimeError when no LoRA tensors are set.
        """
        self._adapters("update_lora_weights").follow(self._open(), anyway=True)

    def _use_lora(self, tensors: Sequence[torch.Tensor]) -> None:
        """As `init_lora_weights`, but cheap when these are the tensors already."""
        lora = self._adapters("_use_lora")
        if not lora.are(tensors):
            lora.set(self._open(), tensors)

    def forward(
        self, hidden_states: torch.Tensor, expert_ids: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """The output of an inference method; arguments and errors as of `forward_sft`."""
        if self._lora is not None:
            raise RuntimeError(f"forward: {self.method} is no inference method, call forward_sft")
        return self._forward_ticket(hidden_states, expert_ids, weights, 0)

    def forward_sft(
        self,
        hidden_states: torch.Tensor,
        expert_ids: torch.Tensor,
        weights: torch.Tensor,
        save_for_backward: bool = True,
    ) -> torch.Tensor:
        """The layer's output [qlen, H], in the dtype of hidden_states.

        Args:
            hidden_states: [qlen, H], bfloat16, float32 or float16; qlen may be 0.
            expert_ids: [qlen, k], int64 or int32, each -1 (skip) or 0 to E-1; an expert may come
                twice in a row.
            weights: routing weights [qlen, k], float32 or bfloat16, finite.
            save_for_backward: hold a cache slot until `backward`. The arguments may be changed
                afterwards.

        Raises TypeError or ValueError for arguments, and RuntimeError before the weights and LoRA
        tensors are set, after `close`, for inference methods, and, beginning "Forward cache full",
        when all of max_cache_depth slots are held.
        """
        self._adapters("forward_sft")
        ticket = self._new_ticket(save_for_backward)
        try:
            output = self._forward_ticket(hidden_states, expert_ids, weights, ticket)
            if ticket:
                self._saved.add(ticket)
        except BaseException:
            self._saved.discard(ticket)
            self._release(ticket)
            raise
        return output

    @overload
    def backward(
        self, grad_output: torch.Tensor, routing_weights_grad: Literal[False] = False
    ) -> Grads: ...
    @overload
    def backward(
        self, grad_output: torch.Tensor, routing_weights_grad: bool
    ) -> Grads | AllGrads: ...
    def backward(
        self, grad_output: torch.Tensor, routing_weights_grad: bool = False
    ) -> Grads | AllGrads:
        """Gradients of the newest saved forward, whose cache slot is then free.

        Of several threads each takes the newest of its own forwards, and another's only when it has
        none.

        Args:
            grad_output: [qlen, H], bfloat16, float32 or float16.
            routing_weights_grad: return the gradient of the routing weights as well.

        Returns grad_input [qlen, H] in grad_output's dtype; the dict of `GRAD_NAMES`, each of its
        LoRA tensor's shape and dtype; and, if asked for, grad_weights [qlen, k] in float32.

        Raises RuntimeError when no forward was saved, TypeError or ValueError for grad_output; the
        saved forward is then still there.
        """
        self._adapters("backward")
        self._open()
        ticket = self._saved.take()
        try:
            dx, loras, dr = self._backward_ticket(ticket, grad_output, routing_weights_grad)
        except BaseException:
            if self._is_saved(ticket):
                self._saved.add(ticket)
            raise
        return (dx, loras) if dr is None else (dx, loras, dr)

    def close(self) -> None:
        """Frees weights and saved forwards now; every later call raises RuntimeError."""
        with self._lock:
            self._layer = None
            self._weights_loaded = False

    def _adapters(self, call: str) -> LoraTensors:
        if self._lora is None:
            raise RuntimeError(f"{call}: {self.method} is an inference method, call forward")
        return self._lora
