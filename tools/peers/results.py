"""The results file: one for each run, whole or not at all."""

import json
from pathlib import Path

from tools import files


def write_results(path: Path, results: dict) -> None:
    """As JSON. A value that is not finite is an error: no JSON is."""
    files.write_text(path, json.dumps(results, indent=1, allow_nan=False) + "\n")
