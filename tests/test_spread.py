"""The benchmark of the benchmarks: its figures on made-up passes, and that it goes on."""

import json
import math
import random

import pytest
from asv_history import DATA, Project, scale

from tools import spread
from tools.history import Measured, Row

FORWARD = ("forward.Forward.time_forward", "AMXINT4_SFT", "quick-compute")


def make(values, unit="seconds", by_difference=False):
    return spread.spread(Row("a.B.c", (), unit, by_difference, tuple(map(Measured, values))))


def test_deviation_width_and_what_can_be_detected():
    found = make([9.0, 10.0, 11.0])
    assert found.deviation == pytest.approx(0.1)
    assert found.width == pytest.approx(0.2)
    assert found.detectable == pytest.approx(0.1 * 2.576 * math.sqrt(2))
    assert found.noisy
    assert not make([9.6, 10.0, 10.4]).noisy
    assert make([1.7] * 5).detectable == 0


def test_overheads_spread_in_their_own_unit():
    found = make([-0.5, 0.0, 0.5], "%", by_difference=True)
    assert (found.deviation, found.width, found.noisy) == (0.5, 1.0, False)
    assert make([-2.0, 0.0, 2.0], "%", by_difference=True).noisy


def test_one_pair_in_a_hundred_differs_by_more():
    draw = random.Random(2)
    values = [draw.gauss(1, 0.02) for _ in range(20_000)]
    limit = make(values).detectable
    pairs = zip(values[::2], values[1::2], strict=True)
    passed = sum(abs(a / b - 1) > limit for a, b in pairs)
    assert 60 < passed < 140


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """main() on a project of one commit with made-up passes: noise of 1%, of one row of 10%."""
    project = Project(tmp_path / "project", 1)
    (project.results / "benchmarks.json").unlink()  # nothing was measured but by passes
    draw = random.Random(3)
    asked = []

    def measure(conf, range_spec, bench, interleave_rounds, show_stderr):
        assert (range_spec, bench) == (project.hashes, [spread.QUICK])
        assert interleave_rounds, "a row's samples would all be of one moment"
        asked.append(conf.results_dir)
        project.noise = 0.01
        data = project.noisy(0, draw)
        scale(data, FORWARD[0], project.place(*FORWARD), math.exp(draw.gauss(0, 0.1)))
        folder = project.folder / conf.results_dir
        (folder / "vm").mkdir(parents=True, exist_ok=True)
        for name, place in (("benchmarks.json", folder), ("machine.json", folder / "vm")):
            (place / name).write_text((DATA / name).read_text())
        (folder / "vm" / f"{project.hashes[0][:8]}-env.json").write_text(json.dumps(data))
        if (project.folder / "stop").exists():
            raise KeyboardInterrupt

    def main(*arguments):
        monkeypatch.setattr("sys.argv", ["spread", *arguments])
        with pytest.raises(SystemExit) as ended:
            spread.main()
        return ended.value.code, capsys.readouterr().out

    monkeypatch.setattr(spread, "ROOT", project.folder)
    monkeypatch.setattr(spread.Run, "run", measure)
    monkeypatch.setattr(spread, "machine", lambda: {"machine": "vm", "cpu": "C", "num_cpu": "2"})
    monkeypatch.setattr(spread, "git", lambda *arguments: project.hashes[0])
    monkeypatch.setattr(spread, "describe", lambda commit: commit[:8])
    monkeypatch.setattr(spread.lock, "path", lambda: tmp_path / "lock")
    monkeypatch.setattr(spread.asv_plugin, "install", lambda: None)
    monkeypatch.chdir(project.folder)
    main.asked, main.project = asked, project
    return main


def test_the_noisy_row_is_named_and_fails_the_run(run):
    code, out = run()
    assert code == 1
    assert len(run.asked) == len(set(run.asked)) == 10
    named = [line for line in out.splitlines() if line.startswith("noisy: ")]
    assert len(named) == 1
    assert named[0].startswith("noisy: forward.Forward.time_forward AMXINT4_SFT quick-compute: ")
    assert "1 of " in out.splitlines()[-1]
    table = [line for line in out.splitlines() if line.startswith("| RelativeError.track_output")]
    assert table[0].split("|")[3].strip() == "0.0%"


def test_passes_that_are_there_are_not_measured_again(run):
    run("3")
    assert len(run.asked) == 3
    for passes in ("4", "3"):
        assert run(passes)[0] == 1
    assert len(run.asked) == 4


def test_an_interrupted_pass_is_measured_again(run):
    (run.project.folder / "stop").touch()
    with pytest.raises(KeyboardInterrupt):
        run("2")
    (run.project.folder / "stop").unlink()
    run("2")
    assert run.asked == [run.asked[0], run.asked[0], run.asked[-1]]


@pytest.mark.parametrize("arguments", [["1"], ["ten"], ["2", "3"]])
def test_words_that_mean_nothing_are_refused(run, arguments):
    code, _ = run(*arguments)
    assert code == spread.USAGE
    assert run.asked == []
