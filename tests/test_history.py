"""Reading asv's results: which rows should have a value, in which order, with which commits."""

import json
import math

import pytest
from asv import util
from asv.benchmarks import Benchmarks
from asv.config import Config
from asv_history import REAL, Project

from tools import history

OUTPUT = "relative_error.RelativeError.track_output"
FORWARD = "forward.Forward.time_forward"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path, 5)


def load():
    conf = Config.load()
    return history.load(conf, Benchmarks.load(conf))


def find(found, name, *params):
    (row,) = [
        row
        for row in found.rows
        if row.benchmark == name and tuple(v.strip("'") for _, v in row.params) == params
    ]
    return row


def test_rows_over_commits_in_their_order(project):
    project.plant(2, 3, OUTPUT, "AMXINT8_SFT", "quick-memory")
    (found,) = project.write() and load()
    assert [commit.hash for commit in found.commits] == project.hashes
    assert [commit.subject for commit in found.commits] == [f"commit {i}" for i in range(5)]
    assert [commit.unmeasured for commit in found.commits] == [0] * 5
    row = find(found, OUTPUT, "AMXINT8_SFT", "quick-memory")
    real = REAL["results"][OUTPUT][0][project.place(OUTPUT, "AMXINT8_SFT", "quick-memory")]
    assert [point.value for point in row.points] == [real] * 3 + [2 * real] * 2
    assert (row.suite, row.metric, row.unit) == ("RelativeError", "track_output", "%")
    assert row.points[0].interval is None
    low, high = find(found, FORWARD, "AMXINT8_SFT", "quick-memory").points[0].interval
    assert 0 < low < high
    assert found.machine["cpu"] == REAL["params"]["cpu"]
    assert found.software == {"python": "3.11", "torch": "2.13.0", "numpy": "2.4.6"}


def test_commits_that_were_not_measured_are_counted(project):
    project.write()
    for number in (1, 2):
        (project.results / "vm" / f"{project.hashes[number][:8]}-env.json").unlink()
    (found,) = load()
    assert [commit.unmeasured for commit in found.commits] == [0, 2, 0]


def test_rows_that_were_never_chosen_are_not_missed(project):
    (found,) = project.write() and load()
    presets = {row.param("preset") for row in found.rows}
    assert presets == {"quick-compute", "quick-memory", ""}
    assert not [
        r for r in found.rows if r.metric == "time_forward" and r.param("method")[-4:] != "_SFT"
    ]
    assert all(len(row.numbers) == 5 for row in found.rows)


def test_a_row_of_the_quick_preset_that_no_commit_has_is_missed(project):
    for number in range(5):
        project.put(math.nan, number, OUTPUT, "AMXINT4", "quick-memory")
    (found,) = project.write() and load()
    assert find(found, OUTPUT, "AMXINT4", "quick-memory").numbers == []


def test_a_method_that_a_full_preset_leaves_out_is_missed(project):
    project.put(1.7, 4, OUTPUT, "AMXINT8_SFT", "S1")
    (found,) = project.write() and load()
    assert len(find(found, OUTPUT, "AMXINT8_SFT", "S1").numbers) == 1
    assert find(found, OUTPUT, "AMXINT4_SFT", "S1").numbers == []
    assert {row.benchmark for row in found.rows if row.param("preset") == "S1"} == {OUTPUT}


def test_values_of_another_version_of_a_benchmark_do_not_count(project):
    data = project.data[2]
    columns = data["result_columns"]
    data["results"][OUTPUT][columns.index("version")] = "1"
    (found,) = project.write() and load()
    row = find(found, OUTPUT, "AMXINT8_SFT", "quick-memory")
    assert [place for place, _ in row.numbers] == [0, 1, 3, 4]


def test_a_damaged_file_is_named_and_skipped(project, caplog):
    project.write()
    damaged = project.results / "vm" / f"{project.hashes[3][:8]}-env.json"
    damaged.write_text(damaged.read_text()[:5000])
    (found,) = load()
    assert len(found.commits) == 4
    assert damaged.name in caplog.text


def test_results_of_other_branches_do_not_count(project):
    project.write()
    project.git("checkout", "-q", "-b", "side")
    project.git("commit", "-q", "--allow-empty", "-m", "aside")
    data = {**project.data[4], "commit_hash": project.git("rev-parse", "HEAD").strip()}
    (project.results / "vm" / "aside-env.json").write_text(json.dumps(data))
    (found,) = load()
    assert [commit.hash for commit in found.commits] == project.hashes


def test_machines_are_apart_and_the_latest_is_first(project):
    project.write()
    other = project.results / "other"
    other.mkdir()
    (other / "machine.json").write_text(
        json.dumps(
            {
                **json.loads((project.results / "vm" / "machine.json").read_text()),
                "machine": "other",
            }
        )
    )
    data = json.loads(json.dumps(project.data[1]))
    data["params"]["machine"] = "other"
    started = data["result_columns"].index("started_at")
    for row in data["results"].values():
        row[started] += 1000
    (other / "x-env.json").write_text(json.dumps(data))
    found = load()
    assert [one.machine["machine"] for one in found] == ["other", "vm"]
    assert [len(one.commits) for one in found] == [1, 5]


def test_the_latest_result_of_a_commit_counts(project):
    project.write()
    data = json.loads(json.dumps(project.data[4]))
    started = data["result_columns"].index("started_at")
    for row in data["results"].values():
        row[started] += 1000
    place = project.place(OUTPUT, "AMXINT8_SFT", "quick-memory")
    data["results"][OUTPUT][0][place] = 9.0
    (project.results / "vm" / "0-later.json").write_text(json.dumps(data))
    (found,) = load()
    assert find(found, OUTPUT, "AMXINT8_SFT", "quick-memory").points[-1].value == 9.0


def test_infinity_is_refused_by_name(project):
    project.write()
    history.refuse_infinity(Config.load())
    project.put(math.inf, 2, OUTPUT, "AMXINT8_SFT", "quick-memory")
    project.write()
    with pytest.raises(util.UserError, match=rf"{OUTPUT} of {project.hashes[2][:8]} on vm"):
        history.refuse_infinity(Config.load())


def test_nothing_measured_is_no_history(project):
    assert load() == []
