"""Setting up, building, and what asv is told: pins, names, which commits."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
from asv.config import Config

from tools import bench, build, environment, python_headers

ROOT = Path(__file__).resolve().parent.parent


def test_asv_uninstalls_this_distribution():
    """pip keeps an installed version where the next commit's wheel has the same number."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
    conf = Config.load(str(ROOT / "asv.conf.json"))
    assert conf.project == project
    assert conf.branches == ["main"]


def test_the_pins_of_asv_are_those_of_the_tests():
    conf = Config.load(str(ROOT / "asv.conf.json"))
    pins = (ROOT / "requirements" / "dev.txt").read_text().splitlines()
    for package, versions in conf.matrix["req"].items():
        assert [f"{package}=={version}" for version in versions] == [
            pin for pin in pins if pin.startswith(f"{package}==")
        ]


def test_every_requirement_is_pinned():
    for path in (ROOT / "requirements").glob("*.txt"):
        for line in path.read_text().splitlines():
            assert re.match(r"#|-r \w+\.txt$|[\w.-]+==[\w.]+$|$", line), f"{path.name}: {line}"


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    for key in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{key}_NAME", "a")
        monkeypatch.setenv(f"{key}_EMAIL", "a@example.org")
    assert bench.git("init", "-q") is not None

    def commit(*files):
        for file in files:
            (tmp_path / file).write_text("")
        bench.git("add", "-A")
        assert bench.git("commit", "-q", "--allow-empty", "-m", "c") is not None
        return bench.git("rev-parse", "HEAD")

    return commit


def test_the_commit_before_counts_where_it_can_be_built(repository):
    with pytest.raises(SystemExit, match="at least one commit"):
        bench.commits()
    first = repository("README")
    assert bench.commits() == (first, None)
    second = repository("setup.py")
    assert bench.commits() == (second, None)
    third = repository()
    assert bench.commits() == (third, second)


def test_each_missing_tool_is_a_line_that_says_what_to_install(monkeypatch):
    assert environment.missing_tools() == []
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    monkeypatch.setattr(python_headers, "present", lambda venv: False)
    assert environment.missing_tools() == [
        "python3's venv module is missing: apt-get install python3-venv",
        "Python's C headers are missing: apt-get install python3-dev",
        "g++ is missing: apt-get install g++",
        "make is missing: apt-get install make",
        "git is missing: apt-get install git",
    ]
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    assert "wanted 3.11 or later" in environment.missing_tools()[0]


@pytest.fixture
def fake_venv(tmp_path, monkeypatch):
    """environment.make with a folder of its own; what it would run is recorded."""
    venv = tmp_path / ".venv"
    monkeypatch.setattr(environment, "VENV", venv)
    monkeypatch.setattr(environment, "STAMPS", venv / "stamps")
    monkeypatch.setattr(environment, "PYTHON", venv / "bin" / "python")
    calls = []

    def run(command, check):
        calls.append([str(word) for word in command])
        if "venv" in command:
            (venv / "bin").mkdir(parents=True)
            (venv / "bin" / "python").symlink_to(sys.executable)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(environment.subprocess, "run", run)
    monkeypatch.setattr(python_headers, "present", lambda venv: True)
    return calls


def test_headers_that_are_missing_come_into_the_new_environment(fake_venv, monkeypatch):
    monkeypatch.setattr(python_headers, "present", lambda venv: False)
    monkeypatch.setattr(python_headers, "fetch", lambda venv: fake_venv.append(venv))
    environment.make("bench")
    venv, fetched, pip = fake_venv
    assert (venv[2], fetched, pip[2]) == ("venv", environment.VENV, "pip")


def test_a_second_set_up_does_nothing(fake_venv, monkeypatch):
    environment.make("bench")
    assert [call[2] for call in fake_venv] == ["venv", "pip"]
    fake_venv.clear()
    environment.make("bench")
    assert [call[1:] for call in fake_venv] == [["-c", ""]]  # only whether Python starts
    fake_venv.clear()
    monkeypatch.setattr(environment, "wanted", lambda name: (Path("r.txt"), "another hash"))
    environment.make("bench")
    assert [call[2] for call in fake_venv[1:]] == ["pip"]


def test_a_changed_pin_in_an_included_file_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    folder = tmp_path / "requirements"
    folder.mkdir()
    (folder / "dev.txt").write_text("-r base.txt\n")
    (folder / "base.txt").write_text("a==1\n")
    before = environment.wanted("dev")
    assert environment.wanted("dev") == before
    (folder / "base.txt").write_text("a==2\n")
    assert environment.wanted("dev") != before


def test_a_changed_source_is_built_again(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "SOURCES", ["CMakeLists.txt", "csrc"])
    (tmp_path / "csrc" / "ops").mkdir(parents=True)
    (tmp_path / "CMakeLists.txt").write_text("")
    (tmp_path / "csrc" / "ops" / "a.h").write_text("1")
    before = build.digest()
    assert build.digest() == before
    (tmp_path / "csrc" / "ops" / "a.h").write_text("2")
    changed = build.digest()
    (tmp_path / "csrc" / "ops" / "a.h").rename(tmp_path / "csrc" / "ops" / "b.h")
    assert len({before, changed, build.digest()}) == 3


def test_the_sources_of_the_build_exist():
    assert all((ROOT / source).exists() for source in build.SOURCES)
