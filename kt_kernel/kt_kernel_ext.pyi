"""The native extension, as Python sees it. See the methods' own docstrings for errors."""

from collections.abc import Sequence
from types import ModuleType
from typing import TypedDict

__version__: str

class Isa(TypedDict):
    name: str
    family: str
    supported: bool
    why: str

def isas() -> list[Isa]: ...
def isa() -> str: ...
def force_isa(name: str) -> None: ...
def cpu_count() -> int: ...
def numa_nodes() -> int: ...
def formats() -> list[str]: ...
def peak(
    isa: str = "", format: str = "bf16", threads: int = 1, milliseconds: int = 50
) -> float: ...
def read_bandwidth(threads: int = 1, mebibytes: int = 512) -> float: ...

_ops: ModuleType
_tiles: ModuleType

class Tensor:
    def __init__(self, name: str, address: int, dtype: str, shape: Sequence[int]) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> list[int]: ...

class Layer:
    def __init__(
        self,
        *,
        num_experts: int,
        hidden_size: int,
        intermediate_size: int,
        top_k: int,
        format: str = "bf16",
        group_size: int = 128,
        lora_rank: int = 0,
        lora_scaling: float = 1.0,
        parts: int = 1,
        threads: int = 0,
        cache_depth: int = 1,
        chunk_tokens: int = 25600,
    ) -> None: ...
    def load_expert(self, slot: int, gate: Tensor, up: Tensor, down: Tensor) -> None: ...
    def load_codes(self, slot: int, codes: Sequence[Tensor], scales: Sequence[Tensor]) -> None: ...
    def set_lora(self, tensors: Sequence[Tensor]) -> None: ...
    def forward(
        self,
        hidden_states: Tensor,
        expert_ids: Tensor,
        weights: Tensor,
        output: Tensor,
        save: bool,
        skip: Tensor | None = None,
    ) -> int: ...
    def backward(
        self,
        ticket: int,
        grad_output: Tensor,
        grad_input: Tensor,
        grad_loras: Sequence[Tensor],
        grad_weights: Tensor | None = None,
    ) -> None: ...
    def saved_tokens(self, ticket: int = 0) -> int: ...
    def release(self, ticket: int = 0) -> None: ...
    @property
    def cache_used(self) -> int: ...
    @property
    def isa(self) -> str: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def saved_bytes(self) -> int: ...
    @property
    def loaded(self) -> bool: ...
