"""Loaded by asv (asv.conf.json, "plugins"); install() is for tools that read results by themselves.

asv 0.6.6 writes its JSON files in place. A full disk then leaves half a result file where a whole
one was, and a traceback. Here a file is written whole or not at all; what fails is one line and
exit code 1. A file that is damaged all the same is named and left out (tools/result_file.py).

What measures holds the machine's lock (tools/lock.py).

`asv publish` makes the whole dashboard: what it wrote itself, completed by tools/dashboard.
"""

import json
from pathlib import Path

from asv import results, util
from asv.commands import publish as asv_publish
from asv.commands.asv_profiling import Profile
from asv.commands.continuous import Continuous
from asv.commands.find import Find
from asv.commands.publish import Publish
from asv.commands.run import Run

from tools import files, history, lock, result_file
from tools.dashboard import site

asv_publishes = Publish.run.__func__
MEASURING = {
    command: command.run_from_conf_args.__func__ for command in (Run, Continuous, Find, Profile)
}


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
    result_file.check_benchmarks(conf)
    history.refuse_infinity(conf)
    done = asv_publishes(cls, conf, *arguments, **options)
    site.complete(conf)
    return done


def locked(run):
    """A command of asv that holds the machine's lock."""

    def run_locked(cls, conf, *arguments, **options):
        with lock.measuring(f"asv {cls.__name__.lower()}"):
            return run(cls, conf, *arguments, **options)

    return run_locked


def install():
    """Make asv read and write as said above."""
    util.write_json = write_json
    util.load_json = result_file.load_json
    results.Results.load = classmethod(result_file.load)
    results.Results.load_data = result_file.load_data


def setup():
    """Called by asv's plugin manager."""
    install()
    asv_publish.iter_machine_files = result_file.machine_files
    Publish.run = classmethod(publish)
    for command, run in MEASURING.items():
        command.run_from_conf_args = classmethod(locked(run))
