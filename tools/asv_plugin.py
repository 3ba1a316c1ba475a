"""Loaded by asv (asv.conf.json, "plugins"): its files are written whole or not at all.

asv 0.6.6 writes its JSON files in place. A full disk then leaves half a result file where a whole
one was, and a traceback. Here a file is written beside its place and moved there; what fails is one
line and exit code 1.
"""

import contextlib
import json
import os
from pathlib import Path

from asv import util


def write_json(path, data, api_version=None, compact=False):
    """Take the place of asv.util.write_json; util.UserError where the file cannot be written."""
    path = Path(path).absolute()
    if api_version is not None:
        data = {**data, "version": api_version}
    text = json.dumps(data) if compact else json.dumps(data, indent=4, sort_keys=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text, encoding="utf-8")
        os.replace(new, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink()
        raise util.UserError(f"cannot write {path}: {error.strerror}") from error


def setup():
    """Called by asv's plugin manager."""
    util.write_json = write_json
