"""What a long command shows while it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from tqdm import tqdm


@contextmanager
def progress(total: int, what: str, lines: TextIO | None = None) -> Iterator[tqdm]:
    """A bar on a terminal; elsewhere one line for each thing that is measured.

    lines: where the line goes; None: stdout.
    """
    tqdm.monitor_interval = 0  # no thread of its own: the idle process is measured, too
    with tqdm(total=total, desc=what, leave=False, disable=None) as bar:
        if bar.disable:
            print(what, file=lines, flush=True)
        yield bar
