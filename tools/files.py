"""A file is written whole or not at all."""

import contextlib
import os
from pathlib import Path


def write_text(path, text):
    """As write_bytes does, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path, data):
    """Write beside the file's place and move there; OSError, and no trace, where that fails."""
    path = Path(path).absolute()
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(data)
        os.replace(new, path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
