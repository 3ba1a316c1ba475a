"""A result file of asv, or what is wrong with it.

asv 0.6.6 names a file that is no JSON, or lacks a key, in a warning and goes on without it. JSON of
another shape (an edit by hand, a merge gone wrong) ends it with a traceback instead, or passes as
n/a. Here all damage is a util.UserError that names the file, which asv's loops turn into a warning.
"""

import math
import re
from pathlib import Path

from asv import results, util
from asv.benchmarks import Benchmarks
from asv.console import log
from asv.machine import Machine

PER_CHOICE = (
    "result",
    "stats_ci_99_a",
    "stats_ci_99_b",
    "stats_q_25",
    "stats_q_75",
    "stats_number",
    "stats_repeat",
    "samples",
)  # columns with a value for each choice of the parameters
COLUMNS = (*PER_CHOICE, "params", "version", "started_at", "duration", "profile")
DESCRIBED = ("name", "params", "param_names", "unit", "version", "type")  # of each benchmark

asv_loads_json = util.load_json
asv_loads = results.Results.load.__func__
asv_loads_data = results.Results.load_data


def is_number(value):
    """Whether it is one, NaN included; True is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_list(value, holds):
    """Whether it is a list of such items."""
    return isinstance(value, list) and all(map(holds, value))


def is_text(value):
    """Whether it is a string."""
    return isinstance(value, str)


def is_value(value):
    """A value of a row, None for what failed."""
    return value is None or is_number(value)


def are_samples(value):
    """The samples of a choice."""
    return value is None or is_list(value, is_number)


def is_object(value, holds):
    """Whether it maps strings to such values."""
    return isinstance(value, dict) and all(map(holds, value.values()))


HEAD = {
    "commit_hash": lambda value: is_text(value) and re.fullmatch("[0-9a-f]{40}", value),
    "env_name": is_text,
    "date": is_number,
    "params": lambda value: is_object(value, lambda v: is_value(v) or is_text(v)),
    "python": is_text,
    "requirements": lambda value: isinstance(value, dict),
    "env_vars": lambda value: is_object(value, is_text),
    "result_columns": lambda value: is_list(value, lambda v: v in COLUMNS),
    "results": lambda value: is_object(value, lambda v: isinstance(v, list)),
    "durations": lambda value: is_object(value, is_number),
}
ROW = {
    "version": lambda value: value is None or is_text(value),
    "started_at": is_value,
    "duration": is_value,
    "profile": lambda value: value is None or is_text(value),
}


def fault(data):
    """What is wrong with a result file's object, or None."""
    for key, holds in HEAD.items():
        if key not in data:
            return f"{key} is missing"
        if not holds(data[key]):
            return f"{key} is {shown(data[key])}"
    found = (row_fault(data["result_columns"], row) for row in data["results"].values())
    named = zip(data["results"], found, strict=True)
    return next((f"{name}: {wrong}" for name, wrong in named if wrong), None)


def row_fault(columns, row):
    """What is wrong with a benchmark's row, or None."""
    if len(row) > len(columns):
        return f"{len(row)} values for {len(columns)} columns"
    row = dict(zip(columns, row, strict=False))
    params = row.pop("params", None)
    if not is_list(params, lambda value: is_list(value, is_text)):
        return f"params is {shown(params)}"
    choices = math.prod(map(len, params))
    for name, value in row.items():
        if name in PER_CHOICE:
            holds = are_samples if name == "samples" else is_value
            if value is not None and not (is_list(value, holds) and len(value) == choices):
                return f"{name} is {shown(value)}, wanted {choices} values"
        elif not ROW[name](value):
            return f"{name} is {shown(value)}"
    return None


def shown(value):
    """A value, short enough for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check(path, data):
    """UserError, which names the file, where the object is no result."""
    wrong = fault({"env_vars": {}, "durations": {}, **data})
    if wrong:
        raise util.UserError(f"{path} is damaged: {wrong}")


def load_json(path, api_version=None, js_comments=False):
    """Take the place of asv.util.load_json: always an object, or UserError."""
    try:
        data = asv_loads_json(path, api_version, js_comments)
    except (TypeError, UnicodeDecodeError, RecursionError) as error:
        raise util.UserError(f"{path} is damaged: {error}") from error
    if not isinstance(data, dict):
        raise util.UserError(f"{path} is damaged: it is {shown(data)}, wanted an object")
    return data


def load(cls, path, machine_name=None):
    """Take the place of asv.results.Results.load."""
    check(path, load_json(path, cls.api_version))
    return asv_loads(cls, path, machine_name)


def load_data(result, results_dir):
    """Take the place of asv.results.Results.load_data, which asv calls before it measures.

    A damaged file is kept under another name, and the commit is measured as if it had none.
    """
    try:
        asv_loads_data(result, results_dir)
    except util.UserError as error:
        path = Path(results_dir) / result._filename
        path.replace(f"{path}.damaged")
        log.warning(f"{error}: kept as {path.name}.damaged")


def machine_files(results_dir):
    """Take the place of asv.machine.iter_machine_files in publishing: those that can be read."""
    for path in sorted(Path(results_dir).glob("*/machine.json")):
        try:
            data = load_json(str(path), Machine.api_version)
            if not is_object(data, is_text) or "machine" not in data:
                raise util.UserError(f"{path} is damaged: it is {shown(data)}")
        except util.UserError as error:
            log.warning(str(error))
        else:
            yield str(path)


def check_benchmarks(conf):
    """UserError where asv's list of benchmarks is not as asv writes it: nothing can do without."""
    path = Path(conf.results_dir) / "benchmarks.json"
    if path.exists():
        data = load_json(str(path), Benchmarks.api_version)
        for name, value in data.items():
            lacks = set(DESCRIBED) - set(value) if isinstance(value, dict) else DESCRIBED
            if lacks:
                raise util.UserError(
                    f"{path} is damaged: {name} lacks {', '.join(sorted(lacks))}\n"
                    "Use `asv run --bench just-discover` to make it anew."
                )
