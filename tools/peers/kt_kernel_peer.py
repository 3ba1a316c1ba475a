"""kt-kernel in a process of its own, asked for one pass at a time."""

import socket
import subprocess
import tempfile
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent.parent
SERVER = Path(__file__).with_name("kt_server.py")


class PeerError(RuntimeError):
    """What kt-kernel cannot do; one line."""


class KtKernel:
    """A process that runs kt_server.py under the given Python. Close it."""

    def __init__(self, python: str, environment: dict[str, str]) -> None:
        # PYTHONPATH may lead to our kt_kernel_ext, whose name is that of its extension.
        environment = {k: v for k, v in environment.items() if k != "PYTHONPATH"}
        ours, theirs = socket.socketpair()
        self._told = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the process)
        try:
            self._process = subprocess.Popen(
                [python, str(SERVER), str(theirs.fileno()), str(ROOT)],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # it greets and says goodbye
                stderr=self._told,
            )
        except OSError as error:
            ours.close()
            raise PeerError(f"cannot start kt-kernel's Python {python}: {error.strerror}") from None
        finally:
            theirs.close()
        self._connection = Connection(ours.detach())

    def close(self) -> None:
        """End the process, which answers until its socket is closed."""
        self._connection.close()
        self._process.wait()
        self._told.close()

    def _ask(self, *request):
        try:
            self._connection.send(request)
            reply = self._connection.recv()
        except (EOFError, OSError):
            code = self._process.wait()
            self._told.seek(0)
            lines = self._told.read().decode(errors="replace").strip().splitlines()
            why = lines[-1] if lines else f"it ended with exit code {code}"
            raise PeerError(f"kt-kernel does not run: {why}") from None
        if isinstance(reply, Exception):
            raise PeerError(f"kt-kernel: {reply}")
        return reply

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
