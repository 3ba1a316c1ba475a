"""The script that measures how far a review can be trusted: its plants, its count, its table."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.review import plants, rows, trust, trust_table
from tools.review.plants import PLANTS, Expected, Plant
from tools.verdict import NOT_MEASURED, WORSE

ROOT = Path(__file__).resolve().parent.parent
FIRST, SECOND = "track_output AMXINT8_SFT S1", "track_output AMXINT4_SFT S1"


@pytest.fixture
def tree(tmp_path):
    for name in ("csrc", "benchmarks", "kt_kernel"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("name", [name for name in PLANTS if name != "itself"])
def test_every_plant_still_finds_its_place(tree, name):
    for edit, _ in PLANTS[name].steps:
        before = {path: path.read_bytes() for path in tree.rglob("*.*") if path.is_file()}
        edit(tree)
        assert any(path.read_bytes() != content for path, content in before.items())


@pytest.mark.parametrize("name", PLANTS)
def test_every_plant_measures_rows_and_expects_some_of_them(name):
    chosen = [row for row in rows.expected() if re.search(PLANTS[name].only, row.whole)]
    assert chosen
    shown = [f"{row.metric} {row.method} {row.preset} " for row in chosen]
    for _, expected in PLANTS[name].steps:
        assert any(re.search(expected.rows, row) for row in shown)


def test_plants_are_not_reviewed_on_amx(tmp_path, monkeypatch):
    monkeypatch.delenv("KT_KERNEL_ISA", raising=False)
    cpu = tmp_path / "cpuinfo"
    cpu.write_text("flags : avx2 avx512_vnni\n")
    assert "KT_KERNEL_ISA" not in plants.environment(cpu)
    cpu.write_text("flags : avx512_vnni amx_bf16 amx_tile\n")
    assert plants.environment(cpu)["KT_KERNEL_ISA"] == "avx512"
    monkeypatch.setenv("KT_KERNEL_ISA", "avx2")  # as somebody wants it
    assert plants.environment(cpu)["KT_KERNEL_ISA"] == "avx2"


def test_the_planted_error_is_one_of_a_tenth(tree):
    """Of the tree's package, as a review would measure it: a plant that raises plants nothing."""
    script = """if True:
        from benchmarks.relative_error import measure
        for method in ("AMXINT8", "AMXINT8_SFT"):
            print(measure(method, "quick-compute")["output"])
    """

    def errors():
        command = [sys.executable, "-P", "-c", script]
        done = subprocess.run(
            command,
            env={**plants.environment(), "PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return [float(word) for word in done.stdout.split()]

    before = errors()
    PLANTS["error"].steps[0][0](tree)
    after = errors()
    assert after[0] == before[0]
    assert after[1] == pytest.approx(1.1 * before[1], rel=0.03)


def test_a_place_that_is_gone_is_an_error(tree):
    edit = plants.replace("csrc/layer.cpp", "what is not there", "")
    with pytest.raises(ValueError, match=r"csrc/layer\.cpp: 0 times 'what is not there', wanted"):
        edit(tree)


@pytest.mark.parametrize(
    ("expected", "code", "found", "is_right"),
    [
        (Expected(None), 0, {FIRST: "fine"}, True),
        (Expected(None), 4, {FIRST: "undecided"}, True),
        (Expected(None), 3, {FIRST: "fine"}, False),
        (Expected(None), 4, {FIRST: "worse"}, False),
        (Expected(1, WORSE, "INT8"), 1, {FIRST: "worse", SECOND: "fine"}, True),
        (Expected(1, WORSE, "INT8"), 2, {FIRST: "worse"}, False),
        (Expected(1, WORSE, "INT8"), 1, {FIRST: "fine", SECOND: "worse"}, False),
        (Expected(1, WORSE, "output"), 1, {FIRST: "fine", SECOND: "worse"}, False),
        (Expected(1, WORSE, "output", every=False), 1, {FIRST: "fine", SECOND: "worse"}, True),
        (Expected(3, NOT_MEASURED, "INT8"), 3, {}, False),
    ],
)
def test_when_a_review_is_right(expected, code, found, is_right):
    assert trust.right(expected, code, found) == is_right


REPORT = """
| row | before | after | ratio | noise | verdict |
|-----|--------|-------|-------|-------|---------|
| RelativeError.track_output AMXINT8_SFT S1  | 1.7 % | 1.9 % | 1.1 | 0 | **worse**: over |
| Memory.track_bytes_per_weight AMXINT4_SFT quick-memory | 1 | | | | **not measured**: no |
| Speed.time_forward AMXINT4_SFT quick-memory | 1 | 2 | 3 | 4 | fine |
"""


def test_states_are_read_from_the_report():
    assert trust.states(REPORT) == {
        FIRST: "worse",
        "track_bytes_per_weight AMXINT4_SFT quick-memory": "not measured",
        "time_forward AMXINT4_SFT quick-memory": "fine",
    }


REVIEW = """
import sys
from pathlib import Path
report = Path("build/review/report.md")
report.parent.mkdir(parents=True, exist_ok=True)
planted = Path("planted").exists()
report.write_text("| R.track_output AMXINT8_SFT S1 | 1 | 1 | 1 | 1 | %s |\\n"
                  % ("**worse**" if planted else "fine"))
sys.exit(1 if planted else 0)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository whose tools.review says worse wherever there is a file `planted`."""
    root = tmp_path / "root"
    (root / "tools" / "review").mkdir(parents=True)
    (root / "tools" / "review" / "__main__.py").write_text(REVIEW)
    (root / ".gitignore").write_text("build/\n")
    git = ["git", *trust.WHO]
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *arguments], cwd=root, check=True)

    def edit(clone):
        (clone / "planted").write_text("")
        subprocess.run(["git", "add", "planted"], cwd=clone, check=True)

    expected = Expected(1, WORSE, "track_output AMXINT8_SFT ")
    found = {
        "nothing": Plant("nothing", "", ((plants.nothing, Expected(None)),)),
        "some": Plant("a file", "track", ((plants.nothing, Expected(0)), (edit, expected))),
        "missed": Plant("a file that is not seen", "", ((plants.nothing, expected),)),
    }
    monkeypatch.setattr(trust, "ROOT", root)
    monkeypatch.setattr(trust, "FOLDER", root / "build" / "trust")
    monkeypatch.setattr(trust, "RUNS", root / "build" / "trust" / "runs.jsonl")
    monkeypatch.setattr(trust, "TABLE", root / "docs" / "trust.md")
    monkeypatch.setattr(trust, "PLANTS", found)
    monkeypatch.setattr(trust_table, "PLANTS", found)
    return root


def test_it_counts_resumes_and_writes_the_table(project):
    trust.main(["--times", "1"])
    trust.main(["--times", "2", "some"])
    done = [json.loads(line) for line in trust.RUNS.read_text().splitlines()]
    assert [run["plant"] for run in done] == ["nothing", "some", "missed", "some"]
    assert [run["codes"] for run in done] == [[0], [0, 1], [0], [0, 1]]
    assert [run["right"] for run in done] == [True, True, False, True]
    table = (project / "docs" / "trust.md").read_text()
    cells = [
        [cell.strip() for cell in line.split("|")[1:-2]]
        for line in table.splitlines()
        if line.startswith("| ")
    ]
    assert cells[1:] == [
        ["nothing", "0 or 4", "0 (1 times)", "1 of 1", "0 of 1"],
        ["a file", "0, 1", "0, 1 (2 times)", "2 of 2", "0 of 4"],
        ["a file that is not seen", "1", "0 (1 times)", "0 of 1", "0 of 1"],
    ]
    trust.main(["--times", "1"])
    assert len(trust.RUNS.read_text().splitlines()) == len(done)


def test_a_plant_that_is_none(project, capsys):
    with pytest.raises(SystemExit):
        trust.main(["all"])
    assert "PLANT: got 'all', wanted one of nothing, some, missed" in capsys.readouterr().err
