"""Two folders of asv's results as one: what it would hold had all runs happened in it.

A folder is a dict: a file's path in it -> its bytes. Files of different commits, machines or
environments are apart. Of one that both have, each benchmark is taken from the run that started
later, and what that run left out from the other.
"""

import itertools
import json
import math

from asv import util
from asv.results import Results

from tools import result_file

BENCHMARKS, MACHINE = "benchmarks.json", "machine.json"


def merge(ours, theirs, tell):
    """The merged folder; tell is called with a line for each file that is left out, and why.

    What is damaged on one side is taken from the other; on both sides it stays as theirs has it.
    """
    merged = dict(theirs)
    later = ours if latest(ours) > latest(theirs) else theirs
    for path, mine in ours.items():
        other = theirs.get(path)
        if mine == other:
            continue
        try:
            data = parse(path, mine)
        except util.UserError as error:
            tell(f"{error}; left out")
            continue
        try:
            known = None if other is None else parse(path, other)
        except util.UserError as error:
            tell(f"{error}; the other copy takes its place")
            known = None
        if known is None:
            merged[path] = mine
        elif is_result(path):
            merged[path] = json.dumps(merge_results(data, known)).encode()
        elif data != known:
            if path != BENCHMARKS:
                tell(f"{path} differs: {differences(data, known)}; the later run's is kept")
            merged[path] = later[path]
    return merged


def is_result(path):
    """Whether the file is a commit's; all others are asv's own words on machines and benchmarks."""
    return path.rsplit("/", 1)[-1] not in (BENCHMARKS, MACHINE)


def parse(path, content):
    """The file's object; util.UserError, which names the file, where it is damaged."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise util.UserError(f"{path} is damaged: {error}") from error
    if not isinstance(data, dict):
        raise util.UserError(f"{path} is damaged: it is {result_file.shown(data)}")
    if is_result(path):
        if data.get("version") != Results.api_version:
            raise util.UserError(f"{path} has version {data.get('version')} of asv's format")
        result_file.check(path, data)
    return data


def latest(folder):
    """When the folder's last run started, in milliseconds."""
    found = [0]
    for path, content in folder.items():
        if is_result(path):
            try:
                found.append(started(parse(path, content)))
            except util.UserError:
                continue  # merge tells of it
    return max(found)


def started(data):
    """When the last of a result's benchmarks started."""
    return max((row.get("started_at") or 0 for row in rows(data).values()), default=0)


def rows(data):
    """A result's rows by name, each a dict: column -> value."""
    columns = data["result_columns"]
    return {name: dict(zip(columns, row, strict=False)) for name, row in data["results"].items()}


def merge_results(one, other):
    """Two results of a commit on a machine as one; it does not matter which is which."""
    old, new = sorted((one, other), key=lambda data: (started(data), json.dumps(data)))
    before, after = rows(old), rows(new)
    merged = dict(before)
    for name, row in after.items():
        merged[name] = merge_rows(before[name], row) if name in before else row
    columns = list(dict.fromkeys([*new["result_columns"], *old["result_columns"]]))
    return {
        **new,
        "result_columns": columns,
        "results": {name: shortened(columns, row) for name, row in sorted(merged.items())},
        "durations": {**old.get("durations", {}), **new.get("durations", {})},
    }


def shortened(columns, row):
    """The row as asv writes it, without what is empty at its end."""
    values = [row.get(column) for column in columns]
    while values and values[-1] is None:
        values.pop()
    return values


def merge_rows(one, other):
    """The row that started later, with the other's values where it was not asked for any.

    Of another version, or by other parameters, the values mean something else: the later's alone.
    """
    old, new = sorted((one, other), key=lambda row: (row.get("started_at") or 0, json.dumps(row)))
    same_axes = len(old["params"]) == len(new["params"])
    if old.get("version") != new.get("version") or not same_axes:
        return new
    axes = [
        list(dict.fromkeys([*b, *a])) for a, b in zip(old["params"], new["params"], strict=True)
    ]
    before, after = by_choice(old), by_choice(new)
    picked = []
    for choice in itertools.product(*axes):
        values = after.get(choice)
        if values is None or is_na(values["result"]):
            values = before.get(choice, values)
        picked.append(values or {"result": math.nan})
    merged = {**new, "params": axes}
    for column in result_file.PER_CHOICE:
        found = [values.get(column) for values in picked]
        merged[column] = found if any(value is not None for value in found) else None
    return merged


def is_na(value):
    """Whether a choice has no value because nobody asked for one, or the commit cannot have it."""
    return value is not None and math.isnan(value)


def by_choice(row):
    """Choice of the parameters -> column -> value."""
    found = {}
    for place, choice in enumerate(itertools.product(*row["params"])):
        found[choice] = {
            column: row[column][place] if row.get(column) else None
            for column in result_file.PER_CHOICE
        }
    return found


def differences(one, other):
    """The keys in which two objects differ, with both values."""
    keys = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
    return ", ".join(f"{key} {one.get(key)!r} and {other.get(key)!r}" for key in keys)
