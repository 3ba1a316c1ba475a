"""The safetensors files under a path: names, headers and tensors, memory-mapped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

_INDEX = "model.safetensors.index.json"


class Place(NamedTuple):
    """A tensor's name and the file that holds it."""

    name: str
    file: Path


class SafetensorsFiles:
    """A file, or a folder of files with or without an index.

    Raises TypeError or ValueError for what is no path; every method FileNotFoundError when a file
    or folder is not there, and ValueError for unreadable files. All begin with weight_path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"weight_path: wanted a path, got {path!r}")
        if not os.fspath(path):
            raise ValueError(
                "weight_path: empty; give the constructor a safetensors file or a folder of them, "
                "or use load_weights_from_tensors"
            )
        self.root = Path(path)
        self._handles: dict[Path, Any] = {}

    def places(self) -> Iterator[Place]:
        """Every tensor."""
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
            yield from (Place(name, file) for name in self._open(file).keys())  # noqa: SIM118

    def header(self, place: Place) -> tuple[str, tuple[int, ...]]:
        """The tensor's dtype, as safetensors names it, and its shape."""
        try:
            entry = self._open(place.file).get_slice(place.name)
        except SafetensorError as error:
            raise ValueError(
                f"weight_path: {place.file} lacks {place.name}, which the index names"
            ) from error
        return entry.get_dtype(), tuple(entry.get_shape())

    def read(self, place: Place) -> torch.Tensor:
        """The tensor: a view of the mapped file, whose pages the system can drop again."""
        found: torch.Tensor = self._open(place.file).get_tensor(place.name)
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

    def _index(self) -> list[Place]:
        """What the folder's index names."""
        index = self.root / _INDEX
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return [Place(name, self.root / file) for name, file in weight_map.items()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"weight_path: {index} is no index of tensors") from error
