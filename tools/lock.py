"""One measurement at a time on this machine: two would spoil each other's figures."""

import fcntl
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path


def path():
    """The lock's file, one for all clones and users of this machine."""
    return Path(tempfile.gettempdir()) / "kt_kernel-measuring.lock"


def opened():
    """The file's descriptor; another user's can be locked, though not written to."""
    try:
        return os.open(path(), os.O_RDWR)
    except FileNotFoundError:
        descriptor = os.open(path(), os.O_RDWR | os.O_CREAT, 0o666)
        os.fchmod(descriptor, 0o666)  # whatever the umask
        return descriptor
    except PermissionError:
        return os.open(path(), os.O_RDONLY)


@contextmanager
def measuring(what):
    """Hold the machine while `what` measures; SystemExit, which names the holder, if it is held.

    The kernel lets go of it with the process, however that ends.
    """
    descriptor = opened()
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            sys.exit(
                f"this machine is being measured already, by {holder} ({path()}): two runs would "
                "spoil each other's figures; wait for its end, or end it"
            )
        note(descriptor, f"{what}, process {os.getpid()}, since {time.strftime('%F %T')}\n")
        yield
    finally:
        os.close(descriptor)


def note(descriptor, text):
    """Leave word of who holds it, in a file that may be another user's."""
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_RDWR:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
