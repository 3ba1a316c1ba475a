"""The branch that keeps results, by git's plumbing: no checkout, index or branch is touched."""

import os
import subprocess
import tempfile
from pathlib import Path

BRANCH = "refs/heads/asv-results"
FETCHED = "refs/asv-results/fetched"  # where a fetch leaves it: no branch of this clone
NO_SUCH_REF = 2  # git ls-remote's exit code


class GitError(Exception):
    """What git said when it failed."""


def git(*arguments, data=b"", **environment):
    """A git command's output; GitError where it fails."""
    command = ["git", *arguments]
    variables = {**os.environ, **environment}
    done = subprocess.run(command, input=data, env=variables, capture_output=True, check=False)
    if done.returncode != 0:
        raise GitError(done.stderr.decode(errors="replace").strip())
    return done.stdout


def fetch(remote):
    """The branch's newest commit on the remote, or None where it has no such branch."""
    asked = ["git", "ls-remote", "--exit-code", remote, BRANCH]
    if subprocess.run(asked, capture_output=True, check=False).returncode == NO_SUCH_REF:
        return None
    git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", remote, f"+{BRANCH}:{FETCHED}")
    return git("rev-parse", FETCHED).decode().strip()


def read(commit):
    """The commit's files: path -> bytes."""
    listed = git("ls-tree", "-r", "-z", commit).decode().split("\0")[:-1]
    names = {path: line.split()[2] for line, path in (entry.split("\t", 1) for entry in listed)}
    wanted = "".join(f"{blob}\n" for blob in names.values()).encode()
    stream, files, at = git("cat-file", "--batch", data=wanted), {}, 0
    for path in names:
        head = stream.index(b"\n", at)
        size = int(stream[at:head].split()[2])
        files[path] = stream[head + 1 : head + 1 + size]
        at = head + 1 + size + 1
    return files


def commit_files(files, known, parent, message):
    """A commit of the files on top of parent (or None), whose files are known."""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        if parent:
            git("read-tree", parent, **index)
        changed = {path: data for path, data in files.items() if known.get(path) != data}
        lines = []
        for path, data in changed.items():
            blob = git("hash-object", "-w", "--stdin", data=data).decode().strip()
            lines.append(f"100644 {blob}\t{path}\0")
        git("update-index", "-z", "--index-info", data="".join(lines).encode(), **index)
        tree = git("write-tree", **index).decode().strip()
    parents = ["-p", parent] if parent else []
    return git("commit-tree", *parents, "-m", message, tree).decode().strip()


def offer(remote, commit):
    """Put the commit on the remote's branch; GitError where someone was faster, or it fails."""
    git("push", "--quiet", remote, f"{commit}:{BRANCH}")
