"""The results file: one for each run, whole or not at all."""

import json
import os
import tempfile
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Replace the file, or leave it as it was where that fails (OSError)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp's are the owner's alone
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def write_results(path: Path, results: dict) -> None:
    """As JSON. A value that is not finite is an error: no JSON is."""
    write_whole(path, json.dumps(results, indent=1, allow_nan=False) + "\n")
