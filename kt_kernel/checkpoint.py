"""Reads one layer's expert weights from safetensors files, memory-mapped, expert by expert.

Names are those of Hugging Face checkpoints, after any prefix:
`layers.L.mlp.experts.E.{gate,up,down}_proj.weight` (DeepSeek, Qwen) or
`layers.L.block_sparse_moe.experts.E.{w1,w3,w2}.weight` (Mixtral).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .loading import PROJECTIONS
from .reference import Expert

_ROLE_OF = dict(zip(("w1", "w3", "w2"), PROJECTIONS, strict=True)) | {p: p for p in PROJECTIONS}
_NAME = re.compile(
    r"(?:^|\.)layers\.(\d+)\.(?:\w+\.)*?experts\.(\d+)\.(gate_proj|up_proj|down_proj|w[123])\.weight$"
)
_DTYPES = ("BF16", "F32")
_INDEX = "model.safetensors.index.json"


class LayerWeights:
    """The experts of one layer under a path, found and checked; iterating reads them in order.

    Each iteration yields gate [inter, hidden], up [inter, hidden] and down [hidden, inter] of one
    expert, in the file's dtype (bfloat16 or float32). The tensors are views of the mapped files:
    nothing is kept, and pages that were read can be dropped again by the system.

    Raises FileNotFoundError when there is no such file or folder, ValueError for missing, doubled,
    surplus or misshapen experts and unreadable files, TypeError for other dtypes (FP8 among them).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        layer_idx: int,
        num_experts: int,
        shapes: Mapping[str, tuple[int, int]],
    ) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"weight_path: wanted a path, got {path!r}")
        if not os.fspath(path):
            raise ValueError(
                "weight_path: empty; give the constructor a safetensors file or a folder of them, "
                "or use load_weights_from_tensors"
            )
        self.root = Path(path)
        self.num_experts = num_experts
        self._handles: dict[Path, Any] = {}
        self._at = self._find(layer_idx)
        for (_, role), (name, file) in self._at.items():
            self._check(name, file, shapes[role])

    def __iter__(self) -> Iterator[Expert]:
        """The experts from the first to the last."""
        for expert in range(self.num_experts):
            gate, up, down = (self._read(expert, role) for role in PROJECTIONS)
            yield gate, up, down

    def _read(self, expert: int, role: str) -> torch.Tensor:
        name, file = self._at[expert, role]
        found: torch.Tensor = self._open(file).get_tensor(name)
        return found

    def _open(self, file: Path) -> Any:
        """The mapped file; each is opened once."""
        if file not in self._handles:
            if not file.is_file():
                raise FileNotFoundError(
                    f"weight_path: {file} is missing, though the index names it"
                )
            try:
                self._handles[file] = safe_open(file, framework="pt", device="cpu")
            except SafetensorError as error:
                raise ValueError(
                    f"weight_path: {file} is no readable safetensors: {error}"
                ) from error
        return self._handles[file]

    def _names(self) -> Iterator[tuple[str, Path]]:
        """Every tensor's name and the file that holds it."""
        if self.root.is_file():
            files = [self.root]
        elif (self.root / _INDEX).is_file():
            yield from self._index()
            return
        elif self.root.is_dir():
            files = sorted(self.root.glob("*.safetensors"))
        else:
            raise FileNotFoundError(f"weight_path: there is no file or folder {self.root}")
        if not files:
            raise FileNotFoundError(f"weight_path: no *.safetensors in folder {self.root}")
        for file in files:
            yield from ((name, file) for name in self._open(file).keys())  # noqa: SIM118

    def _index(self) -> list[tuple[str, Path]]:
        """What the folder's index names."""
        index = self.root / _INDEX
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return [(name, self.root / file) for name, file in weight_map.items()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"weight_path: {index} is no index of tensors") from error

    def _find(self, layer_idx: int) -> dict[tuple[int, str], tuple[str, Path]]:
        """(expert, role) -> (name, file) for this layer; every expert is there exactly once."""
        found: dict[tuple[int, str], tuple[str, Path]] = {}
        layers = set()
        for name, file in self._names():
            match = _NAME.search(name)
            if match is None:
                continue
            layers.add(int(match[1]))
            if int(match[1]) != layer_idx:
                continue
            key = int(match[2]), _ROLE_OF[match[3]]
            if key in found:
                raise ValueError(
                    f"weight_path: both {found[key][0]} and {name} are {key[1]} of expert {key[0]}"
                )
            found[key] = name, file
        if not found:
            has = ", ".join(map(str, sorted(layers))) or "none"
            raise ValueError(
                f"weight_path: {self.root} has no experts of layer {layer_idx}; "
                f"layers with experts: {has}"
            )
        wanted = [(expert, role) for expert in range(self.num_experts) for role in PROJECTIONS]
        missing = [key for key in wanted if key not in found]
        if missing:
            expert, role = missing[0]
            raise ValueError(
                f"weight_path: layer {layer_idx} lacks {role} of expert {expert} "
                f"({len(missing)} of {len(wanted)} tensors are missing)"
            )
        if len(found) > len(wanted):
            most = 1 + max(expert for expert, _ in found)
            raise ValueError(
                f"weight_path: layer {layer_idx} has {most} experts, num_experts is "
                f"{self.num_experts}"
            )
        return found

    def _check(self, name: str, file: Path, shape: tuple[int, int]) -> None:
        try:
            entry = self._open(file).get_slice(name)
        except SafetensorError as error:
            raise ValueError(f"weight_path: {file} lacks {name}, which the index names") from error
        if entry.get_dtype() not in _DTYPES:
            raise TypeError(
                f"weight_path: {name} has dtype {entry.get_dtype()}, wanted "
                f"{' or '.join(_DTYPES)}: convert the checkpoint to BF16 first"
            )
        if tuple(entry.get_shape()) != shape:
            raise ValueError(
                f"weight_path: {name} has shape {entry.get_shape()}, wanted {list(shape)}"
            )
