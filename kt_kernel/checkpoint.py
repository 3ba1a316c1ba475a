"""Reads one layer's expert weights from safetensors files, expert by expert.

Names are those of Hugging Face checkpoints, after any prefix:
`layers.L.mlp.experts.E.{gate,up,down}_proj.weight` (DeepSeek, Qwen) or
`layers.L.block_sparse_moe.experts.E.{w1,w3,w2}.weight` (Mixtral).

Quantized ones have a `weight_scale` beside an int8 `weight`, or beside the `weight_packed` and
`weight_shape` of compressed-tensors' pack-quantized format; docs/quantized.md has the layouts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

import torch

from .codes import SCALE_DTYPES, CodeFormat
from .kinds import PROJECTIONS, Expert, Kind, Original, Quantized, Shapes
from .safetensors_files import Place, SafetensorsFiles

_ROLE_OF = dict(zip(("w1", "w3", "w2"), PROJECTIONS, strict=True)) | {p: p for p in PROJECTIONS}
_NAME = re.compile(
    r"(?:^|\.)layers\.(\d+)\.(?:\w+\.)*?experts\.(\d+)\.(gate_proj|up_proj|down_proj|w[123])\."
    r"weight(_packed|_scale|_shape|_zero_point|_g_idx|)$"
)
_REFUSED = {"zero_point": "zero points", "g_idx": "columns in an order of their own"}
_DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "I8": torch.int8,
    "U8": torch.uint8,
    "I32": torch.int32,
}
_ORIGINAL = ("BF16", "F32")

# (expert, projection, part) of a tensor; part is "weight", however that is stored, or the name's
# last word.
_Key = tuple[int, str, str]


class LayerWeights:
    """The experts of one layer under a path, found and checked; iterating reads them in order.

    Each iteration yields one expert's tensors, as `kind` takes them: gate [inter, hidden], up
    [inter, hidden] and down [hidden, inter] in bfloat16 or float32, or their codes and scales. The
    tensors are views of the mapped files: nothing is kept.

    codes: of the layer's format, None if it takes no codes.

    Raises FileNotFoundError when there is no such file or folder, ValueError for missing, doubled,
    surplus or misshapen experts and unreadable files, TypeError for other dtypes (FP8 among them).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        layer_idx: int,
        num_experts: int,
        shapes: Shapes,
        codes: CodeFormat | None = None,
    ) -> None:
        self.num_experts = num_experts
        self._files = SafetensorsFiles(path)
        self._at = self._find(layer_idx)
        self.kind: Kind = Original(shapes, codes)
        quantized = [
            place for key, place in self._at.items() if key[2] == "scale" or _is_packed(place)
        ]
        if not quantized:
            for expert, role in self._matrices():
                self._check_original(self._at[expert, role, "weight"], shapes[role])
            return
        if codes is None:
            raise TypeError(
                f"weight_path: {quantized[0].name} belongs to quantized weights, which only "
                f"methods with integer weights take; wanted weights in {' or '.join(_ORIGINAL)}"
            )
        self.kind = Quantized(shapes, codes)
        for expert, role in self._matrices():
            self._check_quantized(expert, role, shapes[role], codes)

    def __iter__(self) -> Iterator[Expert]:
        """The experts from the first to the last."""
        parts = ["weight", "scale"] if len(self.kind.names) > len(PROJECTIONS) else ["weight"]
        for expert in range(self.num_experts):
            yield tuple(
                [
                    self._files.read(self._at[expert, role, part])
                    for part in parts
                    for role in PROJECTIONS
                ]
            )

    def _matrices(self) -> list[tuple[int, str]]:
        return [(expert, role) for expert in range(self.num_experts) for role in PROJECTIONS]

    def _find(self, layer_idx: int) -> dict[_Key, Place]:
        """The tensors of this layer; the weight of every expert is there exactly once."""
        found: dict[_Key, Place] = {}
        layers = set()
        for place in self._files.places():
            match = _NAME.search(place.name)
            if match is None:
                continue
            layers.add(int(match[1]))
            if int(match[1]) != layer_idx:
                continue
            expert, role, part = int(match[2]), _ROLE_OF[match[3]], match[4][1:]
            if part in _REFUSED:
                raise ValueError(
                    f"weight_path: {place.name}: weights with {_REFUSED[part]} are not supported"
                )
            key = expert, role, "weight" if part in ("", "packed") else part
            if key in found:
                raise ValueError(
                    f"weight_path: both {found[key].name} and {place.name} are {role} of expert "
                    f"{expert}"
                )
            found[key] = place
        self._check_experts(found, layer_idx, layers)
        return found

    def _check_experts(
        self, found: Mapping[_Key, Place], layer_idx: int, layers: Iterable[int]
    ) -> None:
        """ValueError unless every expert of the layer is in `found`, and no others."""
        if not found:
            has = ", ".join(map(str, sorted(layers))) or "none"
            raise ValueError(
                f"weight_path: {self._files.root} has no experts of layer {layer_idx}; "
                f"layers with experts: {has}"
            )
        wanted = self._matrices()
        missing = [
            (expert, role) for expert, role in wanted if (expert, role, "weight") not in found
        ]
        if missing:
            expert, role = missing[0]
            raise ValueError(
                f"weight_path: layer {layer_idx} lacks {role} of expert {expert} "
                f"({len(missing)} of {len(wanted)} tensors are missing)"
            )
        most = 1 + max(expert for expert, _, _ in found)
        if most > self.num_experts:
            raise ValueError(
                f"weight_path: layer {layer_idx} has {most} experts, num_experts is "
                f"{self.num_experts}"
            )

    def _check_original(self, place: Place, shape: tuple[int, int]) -> None:
        dtype, found = self._files.header(place)
        if dtype not in _ORIGINAL:
            raise TypeError(
                f"weight_path: {place.name} has dtype {dtype}, wanted "
                f"{' or '.join(_ORIGINAL)}: convert the checkpoint to BF16 first"
            )
        _want_shape(place, found, [shape])

    def _check_quantized(
        self, expert: int, role: str, shape: tuple[int, int], codes: CodeFormat
    ) -> None:
        weight = self._at[expert, role, "weight"]
        scale = self._at.get((expert, role, "scale"))
        if scale is None:
            raise ValueError(f"weight_path: {weight.name} lacks its weight_scale")
        dtype, found = self._files.header(weight)
        torch_dtype = _want_dtype(weight, dtype, codes.dtypes)
        _want_shape(weight, found, [(shape[0], codes.width(torch_dtype, shape[1]))])
        dtype, found = self._files.header(scale)
        _want_dtype(scale, dtype, SCALE_DTYPES)
        _want_shape(scale, found, codes.scale_shapes(shape), codes.group)
        full = self._at.get((expert, role, "shape"))
        if full is not None and (says := self._files.read(full).tolist()) != list(shape):
            raise ValueError(f"weight_path: {full.name} says {says}, wanted {list(shape)}")


def _is_packed(place: Place) -> bool:
    return place.name.endswith("_packed")


def _want_dtype(place: Place, dtype: str, wanted: Container[torch.dtype]) -> torch.dtype:
    """The dtype as torch's; TypeError when it is none of the wanted ones."""
    found = _DTYPES.get(dtype)
    if found is None or found not in wanted:
        names = [name for name, known in _DTYPES.items() if known in wanted]
        raise TypeError(f"weight_path: {place.name} has dtype {dtype}, wanted {' or '.join(names)}")
    return found


def _want_shape(
    place: Place, found: tuple[int, ...], wanted: Sequence[tuple[int, ...]], group: int = 0
) -> None:
    if found in wanted:
        return
    shapes = " or ".join(str(list(shape)) for shape in wanted)
    groups = f" with group_size={group}" if group else ""
    raise ValueError(f"weight_path: {place.name} has shape {list(found)}, wanted {shapes}{groups}")
