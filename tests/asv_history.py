"""A project with a history of asv results: real ones of one commit, repeated with noise, and faults
planted where a test wants them."""

import copy
import itertools
import json
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(__file__).resolve().parent / "data" / "asv_results"
REAL = json.loads((DATA / "result.json").read_text())
BENCHMARKS = json.loads((DATA / "benchmarks.json").read_text())
NOISY = ("time_", "times_over", "overhead", "peakmem")  # in the names of what is not exact
STATS = ("stats_ci_99_a", "stats_ci_99_b", "stats_q_25", "stats_q_75")


class Project:
    """A git repository with `commits` commits, each with results of its own."""

    def __init__(self, folder: Path, commits: int, noise: float = 0.01) -> None:
        self.folder, self.noise = folder, noise
        self.results = folder / ".asv" / "results"
        self.html = folder / ".asv" / "html"
        for name in ("tools", "benchmarks"):
            shutil.copytree(ROOT / name, folder / name)
        (folder / "kt_kernel").mkdir()
        shutil.copy(ROOT / "kt_kernel" / "methods.py", folder / "kt_kernel")
        shutil.copy(ROOT / "asv.conf.json", folder)
        self.git("init", "-q", "-b", "main")
        self.hashes = []
        for number in range(commits):
            date = f"{1_700_000_000 + 3600 * number} +0000"
            self.git("commit", "-q", "--allow-empty", "-m", f"commit {number}", date=date)
            self.hashes.append(self.git("rev-parse", "HEAD").strip())
        machine = self.results / "vm"
        machine.mkdir(parents=True)
        shutil.copy(DATA / "benchmarks.json", self.results)
        shutil.copy(DATA / "machine.json", machine)
        draw = random.Random(1)
        self.data = [self.noisy(number, draw) for number in range(commits)]

    def git(self, *arguments: str, date: str = "") -> str:
        who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org"}
        who |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org"}
        who |= {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date} if date else {}
        command = ["git", *arguments]
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, **who},
            check=True,
            text=True,
            stdout=subprocess.PIPE,
        ).stdout

    def noisy(self, number: int, draw: random.Random) -> dict:
        """The real results as if measured on the commit of that number."""
        data = copy.deepcopy(REAL)
        data["commit_hash"] = self.hashes[number]
        data["date"] = 1000 * (1_700_000_000 + 3600 * number)
        for name in data["results"]:
            if any(part in name for part in NOISY):
                for place in range(len(self.choices(name))):
                    scale(data, name, place, math.exp(draw.gauss(0, self.noise)))
        return data

    @staticmethod
    def choices(name: str) -> list[tuple[str, ...]]:
        return list(itertools.product(*BENCHMARKS[name]["params"]))

    def place(self, name: str, *params: str) -> int:
        """Of a choice of the parameters among all."""
        return self.choices(name).index(tuple(map(repr, params)))

    def plant(self, factor: float, first: int, name: str, *params: str) -> None:
        """The row's values times the factor, from the commit of that number on."""
        place = self.place(name, *params)
        for data in self.data[first:]:
            scale(data, name, place, factor)

    def put(self, value: float | None, number: int, name: str, *params: str) -> None:
        """A value of the row on one commit; None stands for a failure."""
        self.data[number]["results"][name][0][self.place(name, *params)] = value

    def write(self) -> "Project":
        """All results into their files."""
        for data in self.data:
            path = self.results / "vm" / f"{data['commit_hash'][:8]}-env.json"
            path.write_text(json.dumps(data))
        return self

    def asv(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "asv", *arguments],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    def environment(self) -> dict[str, str]:
        return {**os.environ, "HOME": str(self.folder)}


def scale(data: dict, name: str, place: int, factor: float) -> None:
    """One row's value and its statistics times the factor."""
    columns = dict(zip(data["result_columns"], range(99), strict=False))
    row = data["results"][name]
    for column in ("result", *STATS):
        if len(row) > columns[column] and row[columns[column]] is not None:
            values = row[columns[column]]
            if values[place] is not None:
                values[place] *= factor
