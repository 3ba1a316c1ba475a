"""The workflows' rules that no linter knows: pins, permissions, and where code of others runs."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PATHS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in PATHS}
PINNED = re.compile(r"^\s*(?:- )?uses: (?:\./\S+|[\w/-]+@[0-9a-f]{40} # v\d+(?:\.\d+)*)$")
MODULE = re.compile(r"python3? -m (tools(?:\.\w+)+)")
# What each job may do beyond reading the code.
WRITES = {
    ("comment", "comment"): {"pull-requests"},
    ("measure", "keep"): {"contents"},
    ("nightly", "measure"): {"contents"},  # handed on to measure.yml's jobs
    ("nightly", "deploy"): {"id-token", "pages"},
}


def jobs():
    return [
        pytest.param(flow, name, job, id=f"{flow}-{name}")
        for flow, workflow in WORKFLOWS.items()
        for name, job in workflow["jobs"].items()
    ]


def triggers(flow):
    return WORKFLOWS[flow][True]  # YAML 1.1 reads `on` as true


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_commit_with_the_version_beside(path):
    for line in path.read_text().splitlines():
        if "uses:" in line:
            assert PINNED.match(line), line


@pytest.mark.parametrize(("flow", "name", "job"), jobs())
def test_a_job_has_the_permissions_it_needs(flow, name, job):
    given = job.get("permissions", WORKFLOWS[flow].get("permissions"))
    assert isinstance(given, dict), "without permissions a job has the repository's default"
    writes = {scope for scope, level in given.items() if level != "read"}
    assert writes == WRITES.get((flow, name), set())


@pytest.mark.parametrize(("flow", "name", "job"), jobs())
def test_a_job_that_builds_code_keeps_no_token(flow, name, job):
    for step in job.get("steps", []):
        if step.get("uses", "").startswith("actions/checkout@"):
            kept = step.get("with", {}).get("persist-credentials", True)
            assert kept == ((flow, name) == ("measure", "keep"))


@pytest.mark.parametrize("flow", WORKFLOWS)
def test_code_of_others_meets_no_secret(flow):
    """What a pull request starts has read permissions and no secret; what has a token and a pull
    request's artifact checks out main alone."""
    text = (ROOT / ".github" / "workflows" / f"{flow}.yml").read_text()
    on = triggers(flow)
    assert "pull_request_target" not in on
    assert "secrets" not in text
    if "pull_request" in on:
        assert "github.token" not in text
        assert not [key for key in WRITES if key[0] == flow]
    if "workflow_run" in on:
        assert "head_sha" not in text
        assert "ref:" not in text
        assert "github.event.workflow_run.id" in text


@pytest.mark.parametrize(("flow", "name", "job"), jobs())
def test_scripts_take_what_others_wrote_from_the_environment(flow, name, job):
    for step in job.get("steps", []):
        assert "${{" not in step.get("run", "")


@pytest.mark.parametrize(("flow", "name", "job"), jobs())
def test_what_a_step_runs_is_there(flow, name, job):
    for step in job.get("steps", []):
        for module in MODULE.findall(step.get("run", "")):
            place = ROOT / Path(*module.split("."))
            assert place.with_suffix(".py").exists() or (place / "__main__.py").exists()
    if job.get("uses", "").startswith("./"):
        assert (ROOT / job["uses"]).exists()


def test_the_comment_follows_the_review():
    followed = triggers("comment")["workflow_run"]["workflows"]
    assert followed == [WORKFLOWS["review"]["name"]]
    (upload,) = [s for s in WORKFLOWS["review"]["jobs"]["review"]["steps"] if "upload" in str(s)]
    (download,) = [
        s for s in WORKFLOWS["comment"]["jobs"]["comment"]["steps"] if "run-id" in str(s)
    ]
    assert upload["with"]["name"] == download["with"]["name"]


def test_results_are_kept_and_published_when_rows_are_missing():
    for flow, name in (("measure", "keep"), ("nightly", "publish")):
        assert "!cancelled()" in WORKFLOWS[flow]["jobs"][name]["if"]
    steps = WORKFLOWS["measure"]["jobs"]["measure"]["steps"]
    upload, missing = steps[-2:]
    assert upload["with"]["include-hidden-files"] is True
    assert "!cancelled()" in upload["if"]
    assert "missing_rows" in missing["run"]
