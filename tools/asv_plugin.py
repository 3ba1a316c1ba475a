"""Loaded by asv (asv.conf.json, "plugins").

asv 0.6.6 writes its JSON files in place. A full disk then leaves half a result file where a whole
one was, and a traceback. Here a file is written whole or not at all; what fails is one line and
exit code 1.

`asv publish` makes the whole dashboard: what it wrote itself, completed by tools/dashboard.
"""

import json
from pathlib import Path

from asv import util
from asv.commands.publish import Publish

from tools import files, history
from tools.dashboard import site

asv_publishes = Publish.run.__func__


def write_json(path, data, api_version=None, compact=False):
    """Take the place of asv.util.write_json; util.UserError where the file cannot be written."""
    path = Path(path).absolute()
    if api_version is not None:
        data = {**data, "version": api_version}
    text = json.dumps(data) if compact else json.dumps(data, indent=4, sort_keys=True)
    try:
        files.write_text(path, text)
    except OSError as error:
        raise util.UserError(f"cannot write {path}: {error.strerror}") from error


def publish(cls, conf, *arguments, **options):
    """Take the place of asv.commands.publish.Publish.run."""
    history.refuse_infinity(conf)
    done = asv_publishes(cls, conf, *arguments, **options)
    site.complete(conf)
    return done


def setup():
    """Called by asv's plugin manager."""
    util.write_json = write_json
    Publish.run = classmethod(publish)
