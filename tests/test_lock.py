"""The machine's lock: the second measurement is refused by the first one's name."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from asv_history import Project

from tools import lock

ROOT = Path(__file__).resolve().parent.parent
HOLD = "import time; from tools import lock\nwith lock.measuring('a run'): print(1, flush=True); "
HOLD += "time.sleep(60)"


@pytest.fixture(autouse=True)
def own_lock(tmp_path, monkeypatch):
    """Apart from what measures on this machine at the time."""
    monkeypatch.setattr(lock.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture
def holder():
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "1\n"
        yield process
        process.kill()


def test_the_second_is_refused_by_the_firsts_name(holder):
    with pytest.raises(SystemExit) as refused, lock.measuring("another"):
        pytest.fail("both measure")
    assert f"by a run, process {holder.pid}, since 2" in str(refused.value)
    assert str(lock.path()) in str(refused.value)


def test_a_killed_holder_holds_nothing(holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lock.measuring("another"):
        assert lock.path().read_text().startswith(f"another, process {os.getpid()}, since ")


def test_it_is_free_again_afterwards_also_after_an_error():
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), lock.measuring("a run"):
            raise ZeroDivisionError


def test_other_users_can_lock_it():
    with lock.measuring("a run"):
        assert stat.S_IMODE(lock.path().stat().st_mode) == 0o666


def test_a_file_that_may_only_be_read_is_locked_too(monkeypatch):
    with lock.measuring("a run"):
        pass
    opens = os.open

    def read_only(path, flags, *mode):
        if flags & os.O_RDWR:
            raise PermissionError
        return opens(path, flags, *mode)

    monkeypatch.setattr(lock.os, "open", read_only)
    with lock.measuring("another"):
        assert "a run" in lock.path().read_text()  # not ours to write
        with pytest.raises(SystemExit, match="being measured already"), lock.measuring("third"):
            pytest.fail("both measure")


@pytest.mark.parametrize("command", [["run"], ["continuous", "main~1", "main"], ["find", "a", "b"]])
def test_asvs_commands_are_refused_before_they_begin(holder, tmp_path, command):
    project = Project(tmp_path / "project", 2)
    done = project.asv(*command)
    assert done.returncode == 1
    assert f"by a run, process {holder.pid}" in done.stderr
    assert not (project.folder / ".asv" / "env").exists()
