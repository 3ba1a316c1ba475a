"""Work that may end its process, or that a fork may hang."""

import os
import signal
import traceback

import torch


def in_child(body) -> int:
    """A forked child's exit code: 0 where `body` returned, negative for a signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # pytest's prints every thread's stack
            signal.alarm(60)  # ends a child that hangs
            torch.set_num_threads(1)  # PyTorch's own pool does not survive a fork
            body()
            os._exit(0)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
