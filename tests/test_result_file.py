"""Damaged results: named, left out, never the end of publishing or of a run."""

import copy
import json
import re

import pytest
from asv import util
from asv.results import Results
from asv_history import REAL, Project

from tools import result_file

OUTPUT = "relative_error.RelativeError.track_output"
RESULT, PARAMS, VERSION, STARTED = 0, 1, 2, 3  # columns


def edited(edit):
    data = copy.deepcopy(REAL)
    edit(data)
    return data


def row(column, value):
    return lambda data: data["results"][OUTPUT].__setitem__(column, value)


DAMAGE = {
    "no-results": lambda data: data.pop("results"),
    "results-a-list": lambda data: data.update(results=[1]),
    "row-no-list": lambda data: data["results"].update({OUTPUT: 3}),
    "hash-cut": lambda data: data.update(commit_hash="0c7bc6e1"),
    "hash-a-number": lambda data: data.update(commit_hash=7),
    "date-a-text": lambda data: data.update(date="today"),
    "machine-a-list": lambda data: data["params"].update(machine=["vm"]),
    "column-unknown": lambda data: data["result_columns"].append("colour"),
    "value-a-text": row(RESULT, ["1.7"] * 40),
    "value-true": row(RESULT, [True] * 40),
    "values-too-few": row(RESULT, [1.7] * 39),
    "values-no-list": row(RESULT, 1.7),
    "params-missing": row(PARAMS, None),
    "params-a-number": row(PARAMS, [1, 2]),
    "version-a-number": row(VERSION, 2),
    "started-a-text": row(STARTED, "today"),
    "too-many-columns": lambda data: data["results"][OUTPUT].extend([None] * 99),
}


def test_a_real_result_has_no_fault():
    assert result_file.fault(REAL) is None


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_a_fault(name):
    assert result_file.fault(edited(DAMAGE[name]))


def test_a_fault_says_where_and_what():
    assert result_file.fault(edited(row(STARTED, "today"))) == f"{OUTPUT}: started_at is 'today'"
    found = result_file.fault(edited(row(RESULT, [1.7] * 39)))
    assert re.fullmatch(rf"{OUTPUT}: result is \[1.7, .*\.\.\., wanted 40 values", found)


TEXTS = {
    "empty": lambda text: b"",
    "truncated": lambda text: text[:5000],
    "not-utf-8": lambda text: b"\xff\xfe" + text,
    "a-list": lambda text: b"[" + text + b"]",
    "a-number": lambda text: b"7",
    "null": lambda text: b"null",
    "nested": lambda text: b"[" * 100_000,
    "version-a-text": lambda text: text.replace(b'"version": 2', b'"version": "2"'),
    "no-version": lambda text: text.replace(b'"version": 2', b'"edition": 2'),
}


@pytest.fixture
def installed(monkeypatch):
    """Results.load as the plugin makes it."""
    monkeypatch.setattr(util, "load_json", result_file.load_json)
    monkeypatch.setattr(Results, "load", classmethod(result_file.load))
    monkeypatch.setattr(Results, "load_data", result_file.load_data)


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_that_is_no_result_is_an_error_with_its_name(installed, tmp_path, name):
    path = tmp_path / "vm" / "x.json"
    path.parent.mkdir()
    path.write_bytes(json.dumps(REAL).encode())
    assert Results.load(str(path), "vm").commit_hash == REAL["commit_hash"]
    path.write_bytes(TEXTS[name](path.read_bytes()))
    with pytest.raises(util.UserError, match=re.escape(str(path))):
        Results.load(str(path), "vm")


def test_asv_itself_ends_with_a_traceback(tmp_path):
    """Why there is a check at all; when this fails, asv has learnt it."""
    path = tmp_path / "vm" / "x.json"
    path.parent.mkdir()
    path.write_text(json.dumps(edited(DAMAGE["results-a-list"])))
    with pytest.raises(AttributeError):
        result_file.asv_loads(Results, str(path), "vm")


def test_a_run_keeps_a_damaged_file_and_measures_anew(installed, tmp_path, caplog):
    whole = Results(REAL["params"], {}, REAL["commit_hash"], 1, "3.11", "env", {})
    path = tmp_path / whole._filename
    path.parent.mkdir()
    path.write_text("{")
    whole.load_data(str(tmp_path))
    assert list(whole.get_all_result_keys()) == []
    assert [kept.name for kept in path.parent.iterdir()] == [f"{path.name}.damaged"]
    assert path.name in caplog.text


def test_publishing_names_every_damaged_file_and_shows_the_rest(tmp_path):
    damage = {**TEXTS, **{name: None for name in DAMAGE}}
    project = Project(tmp_path, len(damage) + 3).write()
    paths = {}
    for number, name in enumerate(damage):
        paths[name] = project.results / "vm" / f"{project.hashes[number][:8]}-env.json"
        if damage[name]:
            paths[name].write_bytes(damage[name](paths[name].read_bytes()))
        else:
            data = json.loads(paths[name].read_text())
            DAMAGE[name](data)
            paths[name].write_text(json.dumps(data))
    (project.results / "other").mkdir()
    (project.results / "other" / "machine.json").write_text("[]")
    (project.results / "other" / "a-env.json").write_text("{}")
    done = project.asv("publish")
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    for name, path in paths.items():
        assert path.name in told, name
    assert "other/machine.json" in told
    page = (project.html / "index.html").read_text()
    assert "the newest of 3 measured" in page


def test_publishing_without_a_list_of_benchmarks_says_how_to_get_one(tmp_path):
    project = Project(tmp_path, 2).write()
    path = project.results / "benchmarks.json"
    data = json.loads(path.read_text())
    del data[OUTPUT]["params"]
    path.write_text(json.dumps(data))
    done = project.asv("publish")
    assert done.returncode == 1
    assert f"{path.name} is damaged: {OUTPUT} lacks params" in done.stdout + done.stderr
    assert "just-discover" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
