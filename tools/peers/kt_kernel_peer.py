"""kt-kernel in a process of its own, asked for one pass at a time."""

from dataclasses import asdict
from pathlib import Path

import torch

from tools.child import Child, ChildEndedError, ChildError

ROOT = Path(__file__).resolve().parent.parent.parent
SERVER = Path(__file__).with_name("kt_server.py")


class PeerError(RuntimeError):
    """What kt-kernel cannot do; one line."""


class KtKernel:
    """A process that runs kt_server.py under the given Python. Close it."""

    def __init__(self, python: str, environment: dict[str, str]) -> None:
        # PYTHONPATH may lead to our kt_kernel_ext, whose name is that of its extension.
        environment = {k: v for k, v in environment.items() if k != "PYTHONPATH"}
        try:
            self._child = Child(python, [str(SERVER)], [str(ROOT)], environment)
        except ChildEndedError as error:
            raise PeerError(f"kt-kernel does not run: {error}") from None

    def close(self) -> None:
        """End the process."""
        self._child.close()

    def _ask(self, *request):
        try:
            return self._child.ask(*request)
        except ChildEndedError as error:
            raise PeerError(f"kt-kernel does not run: {error}") from None
        except ChildError as error:
            raise PeerError(f"kt-kernel: {error}") from None

    def about(self) -> dict:
        """Its version and which build it takes for this CPU; PeerError where it cannot run."""
        return self._ask("about")

    def load(self, method: str, shape, threads: int) -> dict:
        """A layer in the place of the last; says its class, whether it trains, and its LoRA rank.

        PeerError where kt-kernel has no such layer for this CPU.
        """
        return self._ask("load", method, asdict(shape), threads)

    def seconds(self, passes: str) -> float:
        """The time of one pass, taken now."""
        return self._ask("time", passes)

    def output(self, like: torch.Tensor) -> torch.Tensor:
        """What the last forward computed, in the shape of `like`."""
        data = bytearray(self._ask("output"))
        return torch.frombuffer(data, dtype=torch.bfloat16).view(like.shape)
