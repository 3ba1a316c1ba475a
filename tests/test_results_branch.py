"""The branch asv-results: two clones of a bare repository push at once and nothing is lost."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from asv_history import DATA, REAL

ROOT = Path(__file__).resolve().parent.parent
PEOPLE = ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), ("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL")
WHO = {**dict.fromkeys(PEOPLE[0], "a"), **dict.fromkeys(PEOPLE[1], "a@example.org")}
COLUMN = {name: place for place, name in enumerate(REAL["result_columns"])}


def git(folder, *arguments):
    return subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={**os.environ, **WHO},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


class Clone:
    def __init__(self, bare, folder):
        git(bare.parent, "clone", "-q", str(bare), str(folder))
        self.folder, self.results = folder, folder / ".asv" / "results"
        self.results.mkdir(parents=True)
        shutil.copy(DATA / "benchmarks.json", self.results)

    def command(self, *arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "tools.results", *arguments],
            cwd=self.folder,
            env={**os.environ, **WHO},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def done(self, *arguments):
        process = self.command(*arguments)
        out, error = process.communicate()
        assert process.returncode == 0, out + error
        return out, error

    def measure(self, machine, number, later=0):
        """A result of a commit that nobody else has."""
        data = json.loads(json.dumps(REAL))
        data |= {"commit_hash": f"{number:040x}", "version": 2}
        data["params"]["machine"] = machine
        for row in data["results"].values():
            row[COLUMN["started_at"]] += later
        path = self.results / machine / f"{data['commit_hash'][:8]}{number}-env.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(data))
        if not (path.parent / "machine.json").exists():
            words = json.loads((DATA / "machine.json").read_text()) | {"machine": machine}
            (path.parent / "machine.json").write_text(json.dumps(words))
        return path

    def files(self):
        return {str(p.relative_to(self.results)) for p in self.results.rglob("*.json")}


@pytest.fixture
def bare(tmp_path):
    first = tmp_path / "first"
    first.mkdir()
    git(first, "init", "-q", "-b", "main")
    for name in ("tools", "benchmarks"):
        shutil.copytree(ROOT / name, first / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("asv.conf.json", ".gitignore"):
        shutil.copy(ROOT / name, first)
    git(first, "add", ".")
    git(first, "commit", "-q", "-m", "first")
    git(tmp_path, "clone", "-q", "--bare", str(first), "bare.git")
    return tmp_path / "bare.git"


@pytest.fixture
def clones(bare, tmp_path):
    return Clone(bare, tmp_path / "a"), Clone(bare, tmp_path / "b")


def on_branch(bare):
    return set(git(bare, "ls-tree", "-r", "--name-only", "asv-results").splitlines())


def test_two_clones_push_at_once_and_each_pulls_what_both_have(bare, clones):
    """Six rounds of two pushes at the same moment, the first of which makes the branch."""
    for number in range(6):
        for clone, machine in zip(clones, ("vm", "big"), strict=True):
            clone.measure(machine, number)
        started = [clone.command("push") for clone in clones]
        for process in started:
            out, error = process.communicate()
            assert process.returncode == 0, out + error
    wanted = clones[0].files() | clones[1].files()
    assert len(wanted) == 2 * 6 + 2 + 1
    assert on_branch(bare) == wanted
    for clone in clones:
        clone.done("pull")
        assert clone.files() == wanted
        assert "0 of 15 files were new here" in clone.done("pull")[0]
        assert "0 of 15 files were new to origin" in clone.done("push")[0]
    assert len(git(bare, "log", "--format=%h", "asv-results").splitlines()) == 12


def test_the_same_commit_on_two_clones_of_a_machine_is_merged(clones):
    """One measured the errors, the other later the times."""
    names = sorted(REAL["results"])
    for clone, kept, later in zip(clones, (names[:9], names[9:]), (0, 5), strict=True):
        path = clone.measure("vm", 1, later)
        data = json.loads(path.read_text())
        data["results"] = {name: data["results"][name] for name in kept}
        path.write_text(json.dumps(data))
        clone.done("push")
    clones[0].done("pull")
    (path,) = (clones[0].results / "vm").glob("0*.json")
    assert sorted(json.loads(path.read_text())["results"]) == names


def test_nothing_of_the_clone_is_touched(clones):
    clone = clones[0]
    (clone.folder / "asv.conf.json").open("a").write("\n")
    (clone.folder / "new").write_text("")
    git(clone.folder, "add", "new")
    before = [
        git(clone.folder, *command)
        for command in (["status", "--porcelain"], ["branch"], ["rev-parse", "HEAD"])
    ]
    clone.measure("vm", 1)
    clone.done("push")
    clones[1].measure("big", 1)
    clones[1].done("push")
    clone.done("pull")
    after = [
        git(clone.folder, *command)
        for command in (["status", "--porcelain"], ["branch"], ["rev-parse", "HEAD"])
    ]
    assert after == before
    assert not (clone.folder / ".git" / "FETCH_HEAD").exists()


def test_damage_is_named_and_stays_at_home(bare, clones):
    clone = clones[0]
    clone.measure("vm", 1)
    broken = clone.measure("vm", 2)
    broken.write_text(broken.read_text()[:4000])
    _, error = clone.done("push")
    assert broken.name in error
    assert f"vm/{broken.name}" not in on_branch(bare)


def test_a_path_out_of_the_folder_is_not_followed(bare, clones, tmp_path):
    """Whoever may push to the branch may not write elsewhere on this machine."""
    path = clones[0].measure("vm", 1)
    clones[0].done("push")
    blob = git(bare, "rev-parse", f"asv-results:vm/{path.name}").strip()
    inner = mktree(bare, f"100644 blob {blob}\tevil.json\n")
    outer = mktree(bare, f"040000 tree {inner}\t..\n", git(bare, "ls-tree", "asv-results"))
    commit = git(bare, "commit-tree", outer, "-p", "asv-results", "-m", "evil").strip()
    git(bare, "update-ref", "refs/heads/asv-results", commit)
    clones[1].done("pull")
    assert clones[1].files() == on_branch(bare) - {"../evil.json"}
    assert list(tmp_path.rglob("evil.json")) == []


def mktree(folder, *lines):
    done = subprocess.run(
        ["git", "mktree"],
        cwd=folder,
        input="".join(lines),
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_a_remote_that_fails_is_one_line(clones, tmp_path):
    for command in ("push", "pull"):
        process = clones[0].command(command, str(tmp_path / "nowhere"))
        _, error = process.communicate()
        assert process.returncode == 1, error
        assert error.startswith("git failed: ")
        assert "nowhere" in error
        assert "Traceback" not in error


def test_without_a_branch_there_is_nothing_to_pull(clones):
    assert "0 of 1 files were new here" in clones[0].done("pull")[0]
