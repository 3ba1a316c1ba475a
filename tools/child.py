"""A Python process of its own that answers requests over a socket, one at a time."""

import socket
import subprocess
import tempfile
from multiprocessing.connection import Connection


class ChildError(RuntimeError):
    """Why a request got no answer; one line."""


class ChildEndedError(ChildError):
    """The process does not run, or no longer."""


class Child:
    """A process that runs `python *arguments FD *more`, FD being its end of the socket. Close it.

    What it prints is thrown away, but for its last line of stderr where it ends early. It is ended
    when it lets one wait longer than `patience` seconds; None: for ever.
    """

    def __init__(self, python, arguments, more=(), environment=None, cwd=None, patience=None):
        self._patience = patience
        ours, theirs = socket.socketpair()
        self._told = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the process)
        try:
            self._process = subprocess.Popen(
                [python, *arguments, str(theirs.fileno()), *more],
                pass_fds=[theirs.fileno()],
                env=environment,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._told,
            )
        except OSError as error:
            ours.close()
            raise ChildEndedError(f"cannot start {python}: {error.strerror}") from None
        finally:
            theirs.close()
        self._connection = Connection(ours.detach())

    def close(self):
        """End the process, which answers until its socket is closed."""
        self._connection.close()
        self._process.wait()
        self._told.close()

    def ask(self, *request):
        """Its answer; ChildError where that is an exception, or where the process has ended."""
        try:
            self._connection.send(request)
            if not self._connection.poll(self._patience):
                self._process.kill()
                raise ChildEndedError(f"no answer within {self._patience} s")
            reply = self._connection.recv()
        except (EOFError, OSError):
            code = self._process.wait()
            self._told.seek(0)
            lines = self._told.read().decode(errors="replace").strip().splitlines()
            why = lines[-1] if lines else f"it ended with exit code {code}"
            raise ChildEndedError(why) from None
        if isinstance(reply, Exception):
            raise ChildError(str(reply))
        return reply


def serve(connection, answer):
    """In the child: answer(*request) to every request, until the other end is closed.

    What it raises is sent, too, as a ChildError of one line: not every exception can be pickled.
    """
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        try:
            reply = answer(*request)
        except Exception as error:
            reply = ChildError(one_line(error))
        connection.send(reply)


def one_line(error):
    """The exception's name, and the first line of what it says."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
