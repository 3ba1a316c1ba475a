"""A results folder that cannot be written, or is full: one line says so and nothing is lost."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

from asv import util

from tools import asv_plugin, bench

ROOT = Path(__file__).resolve().parent.parent


def limit_files():
    """As a full disk does: a write fails with half of the file written."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))


def run_python(code, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


CHECK = "import sys; from pathlib import Path; from tools import bench; " + (
    "bench.check_writable(Path(sys.argv[1]))"
)


def test_a_results_folder_that_works_is_left_empty(tmp_path):
    bench.check_writable(tmp_path / "a" / "results")
    assert list((tmp_path / "a" / "results").iterdir()) == []


def test_a_results_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = run_python(CHECK, tmp_path / "file" / "results")
    assert done.returncode == 1
    folder = tmp_path / "file" / "results"
    assert done.stderr == f"cannot write results to {folder}: Not a directory\n"


def test_a_full_results_folder_is_one_line(tmp_path):
    done = run_python(CHECK, tmp_path, preexec_fn=limit_files)
    assert done.returncode == 1
    assert done.stderr == f"cannot write results to {tmp_path}: File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_make_bench_measures_nothing_where_it_cannot_keep_it(tmp_path):
    """The whole command, in a repository whose .asv is a file."""
    for name in ("tools", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "asv.conf.json", tmp_path)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "a"], cwd=tmp_path, check=True)
    (tmp_path / ".asv").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert re.fullmatch(r"cannot write results to .*/\.asv/results: Not a directory\n", done.stderr)
    assert done.stdout == ""
    assert (tmp_path / ".asv").read_text() == ""
    assert not (tmp_path / ".asv-machine.json").exists()


def test_asv_writes_as_it_did(tmp_path):
    data = {"b": [1, 2.5, None], "a": {"ä": "ü"}}
    for compact in (False, True):
        util.write_json(str(tmp_path / "theirs.json"), data, 2, compact)
        asv_plugin.write_json(str(tmp_path / "new" / "ours.json"), data, 2, compact)
        ours, theirs = tmp_path / "new" / "ours.json", tmp_path / "theirs.json"
        assert ours.read_bytes() == theirs.read_bytes()
    assert "version" not in data


WRITE = """
import sys
from asv import util
from asv.plugin_manager import plugin_manager
plugin_manager.import_plugin(".tools.asv_plugin")
try:
    util.write_json(sys.argv[1], {"samples": list(range(10_000))})
except util.UserError as error:
    sys.exit(str(error))
"""


def test_a_full_disk_leaves_the_old_result_whole(tmp_path):
    path = tmp_path / "result.json"
    path.write_text('{"old": true}')
    done = run_python(WRITE, path, preexec_fn=limit_files)
    assert done.returncode == 1
    assert done.stderr == f"cannot write {path}: File too large\n"
    assert json.loads(path.read_text()) == {"old": True}
    assert list(tmp_path.iterdir()) == [path]
    assert run_python(WRITE, path).returncode == 0
    assert len(json.loads(path.read_text())["samples"]) == 10_000


def test_asv_loads_the_plugin():
    conf = util.load_json(str(ROOT / "asv.conf.json"), js_comments=True)
    assert conf["plugins"] == [".tools.asv_plugin"]
