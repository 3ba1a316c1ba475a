"""A project that asv builds and measures in a second a commit: its one benchmark reads a number
that the commit holds."""

import contextlib
import json
import os
import shutil
import subprocess
import sys

from asv_history import DATA, ROOT

CONFIGURATION = {
    "version": 1,
    "project": "tiny",
    "repo": ".",
    "branches": ["main"],
    "environment_type": "virtualenv",
    "build_command": ["python -c pass"],
    "install_command": [
        "in-dir={env_dir} python -c \"import shutil; shutil.copy('{build_dir}/number', 'number')\""
    ],
    "uninstall_command": ["return-code=any python -c pass"],
    "plugins": [".tools.asv_plugin"],
    "benchmark_dir": "suites",
    "env_dir": ".asv/env",
    "results_dir": ".asv/results",
    "html_dir": ".asv/html",
}
# The class is called as one of the quick preset, so that tools.measure chooses it.
SUITE = """
import sys, time
from pathlib import Path

class Import:
    unit = "%"

    def track_number(self):
        time.sleep(0.5)
        return float((Path(sys.prefix) / "number").read_text())
"""


class Tiny:
    """The project with a commit for each of the numbers, oldest first."""

    def __init__(self, folder, numbers):
        self.folder, self.results = folder, folder / ".asv" / "results" / "vm"
        for name in ("tools", "benchmarks"):
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        (folder / "kt_kernel").mkdir()
        shutil.copy(ROOT / "kt_kernel" / "methods.py", folder / "kt_kernel")
        (folder / "suites").mkdir()
        (folder / "suites" / "__init__.py").touch()
        (folder / "suites" / "suite.py").write_text(SUITE)
        (folder / "asv.conf.json").write_text(json.dumps(CONFIGURATION))
        (folder / ".gitignore").write_text(".asv*\n__pycache__/\n")
        machine = json.loads((DATA / "machine.json").read_text())
        del machine["version"]
        (folder / ".asv-machine.json").write_text(json.dumps({"version": 1, "vm": machine}))
        (folder / "setup.py").touch()
        self.git("init", "-q", "-b", "main")
        self.hashes = []
        for number in numbers:
            (folder / "number").write_text(f"{number}\n")
            self.git("add", ".")
            self.git("commit", "-q", "--allow-empty", "-m", f"number {number}")
            self.hashes.append(self.git("rev-parse", "HEAD").strip())

    def git(self, *arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", *who, *arguments]
        return subprocess.run(
            command, cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout

    @contextlib.contextmanager
    def started(self, *module):
        """`python -m` in a process group of its own, which is killed at the end."""
        with subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=self.folder,
            env={**os.environ, "HOME": str(self.folder), "TMPDIR": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, 9)

    def done(self, *module):
        """Its exit code and output."""
        with self.started(*module) as process:
            out, _ = process.communicate()
            return process.returncode, out

    def recorded(self):
        """File names and contents of the commits' results."""
        return {path.name: path.read_text() for path in sorted(self.results.glob("*-*.json"))}

    def values(self):
        """Commit -> its value."""
        data = [json.loads(text) for text in self.recorded().values()]
        return {d["commit_hash"]: d["results"]["suite.Import.track_number"][0][0] for d in data}
