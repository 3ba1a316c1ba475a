"""What asv recorded, as rows: a benchmark with one choice of its parameters, commit after commit.

The dashboard's first page reads its figures here, and so does whatever else judges them.
"""

import itertools
import math
import re
from dataclasses import dataclass

from asv import results, util
from asv.repo import get_repo

from benchmarks.presets import QUICK


@dataclass(frozen=True)
class Measured:
    """A value and, of a timing, its 99% interval. The value is None if it failed, NaN if n/a."""

    value: float | None = math.nan
    interval: tuple[float, float] | None = None

    @property
    def is_number(self):
        """Whether there is a value to compare with."""
        return self.value is not None and math.isfinite(self.value)


@dataclass(frozen=True)
class Commit:
    """A commit that was measured."""

    hash: str
    date: int  # of the commit, milliseconds since 1970
    subject: str
    unmeasured: int  # commits between the measured one before and this one


@dataclass(frozen=True)
class Row:
    """A benchmark with one choice of its parameters."""

    benchmark: str  # module.Suite.metric
    params: tuple[tuple[str, str], ...]  # names and the values' repr, as asv has them
    unit: str
    by_difference: bool  # compared by difference: the value may be near 0
    points: tuple[Measured, ...]  # one for each commit of the history

    @property
    def suite(self):
        """The class."""
        return self.benchmark.rsplit(".", 2)[1]

    @property
    def metric(self):
        """The function's name."""
        return self.benchmark.rsplit(".", 1)[1]

    def param(self, name):
        """The value of a parameter, or an empty string."""
        return dict(self.params).get(name, "").strip("'")

    @property
    def numbers(self):
        """Places in the history that have a value, with the values, oldest first."""
        return [(i, point.value) for i, point in enumerate(self.points) if point.is_number]


@dataclass(frozen=True)
class History:
    """What one machine measured."""

    machine: dict  # as asv describes it: machine, cpu, num_cpu, ram, os, arch
    software: dict  # in the environment of the newest commit: name -> version
    measured_at: int  # when it last did, milliseconds since 1970
    commits: tuple[Commit, ...]  # oldest first
    rows: tuple[Row, ...]  # those that should have a value


def newest(results_dir, machine, commit):
    """The latest results.Results of a commit on a machine, or None."""
    found = results.iter_results_for_machine_and_hash(results_dir, machine, commit)
    return max(found, key=measured_at, default=None)


def measured_at(result):
    """When the latest of a result's benchmarks started, in milliseconds."""
    return max(filter(None, result.started_at.values()), default=0)


def measured(result, benchmark):
    """A Measured for each choice of the parameters; n/a where the result (or None) lacks it."""
    name, params = benchmark["name"], benchmark["params"]
    if result is None or name not in result.get_result_keys({name: benchmark}):
        return [Measured()] * math.prod(len(choices) for choices in params)
    values = result.get_result_value(name, params)
    stats = result.get_result_stats(name, params)
    return [
        Measured(value, (stat["ci_99_a"], stat["ci_99_b"]) if stat else None)
        for value, stat in zip(values, stats, strict=True)
    ]


def make_rows(benchmarks, found):
    """The rows that have a value, or should have one; a result (or None) for each commit.

    A row should have a value if any commit has one, and if its preset was measured: at the quick
    presets `make bench` leaves rows out on purpose, at others a benchmark runs all its methods.
    """
    rows, quick = [], re.compile(QUICK)
    for name, benchmark in sorted(benchmarks.items()):
        columns = [measured(result, benchmark) for result in found]
        for index, choice in enumerate(itertools.product(*benchmark["params"])):
            row = Row(
                benchmark=name,
                params=tuple(zip(benchmark["param_names"], choice, strict=True)),
                unit=benchmark["unit"],
                by_difference=benchmark.get("compare_by") == "difference",
                points=tuple(column[index] for column in columns),
            )
            group = "quick" if quick.search(f"{name}({', '.join(choice)})") else ""
            if not group and not row.param("preset").startswith("quick-"):
                group = f"{name} {row.param('preset')}"
            rows.append((row, group))
    ran = {group for row, group in rows if row.numbers} - {""}
    return tuple(row for row, group in rows if row.numbers or group in ran)


def git_subjects(repo, hashes):
    """The first line of each commit's message."""
    command = ["log", "--no-walk=unsorted", "--format=%H%x00%s", *hashes]
    lines = repo._run_git(command).splitlines() if hashes else []
    return dict(line.split("\0", 1) for line in lines)


def load(conf, benchmarks):
    """A History for each machine with results on the branches of asv's configuration.

    The machine that measured last comes first. Of several results of a commit the latest counts.
    asv names a result file that cannot be read in a warning and goes on without it.
    """
    repo = get_repo(conf)
    branches = [list(reversed(repo.get_branch_commits(name))) for name in conf.branches]
    place = {commit: i for branch in branches for i, commit in enumerate(branch)}
    machines = {}
    for result in results.iter_results(conf.results_dir):
        if result.commit_hash in place:
            of_machine = machines.setdefault(result.params["machine"], {})
            known = of_machine.get(result.commit_hash)
            if known is None or measured_at(known) < measured_at(result):
                of_machine[result.commit_hash] = result
    hashes = sorted({commit for of_machine in machines.values() for commit in of_machine})
    order, subjects = repo.get_revisions(hashes), git_subjects(repo, hashes)
    histories = []
    for of_machine in machines.values():
        found = sorted(of_machine.values(), key=lambda result: order[result.commit_hash])
        before = [place[found[0].commit_hash] - 1, *(place[r.commit_hash] for r in found)]
        commits = tuple(
            Commit(
                r.commit_hash,
                r.date,
                subjects[r.commit_hash],
                max(0, place[r.commit_hash] - earlier - 1),
            )
            for r, earlier in zip(found, before, strict=False)
        )
        required = {name: found[-1].params[name] for name in conf.matrix.get("req", {})}
        histories.append(
            History(
                machine=machine_of(found[-1]),
                software={"python": found[-1].params["python"], **required},
                measured_at=max(map(measured_at, found)),
                commits=commits,
                rows=make_rows(benchmarks, found),
            )
        )
    return sorted(histories, key=lambda history: history.measured_at, reverse=True)


def machine_of(result):
    """The machine as the result names it: its own words stay true when the machine changes."""
    names = ("machine", "cpu", "num_cpu", "ram", "os", "arch")
    return {name: result.params.get(name, "") for name in names}


def refuse_infinity(conf):
    """UserError where a result is infinite: asv's search for steps would not come to an end.

    Infinite bounds of an interval are asv's own word for too few samples.
    """
    for result in results.iter_results(conf.results_dir):
        for name in result.get_all_result_keys():
            values = result.get_result_value(name, result.get_result_params(name))
            if any(value is not None and math.isinf(value) for value in values):
                commit = result.commit_hash[: conf.hash_length]
                raise util.UserError(
                    f"{name} of {commit} on {result.params['machine']} is infinite, which asv "
                    "publish cannot handle: measure it again, or take it out with asv rm"
                )
