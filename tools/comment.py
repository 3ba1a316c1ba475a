"""Puts the review of a pull request into one comment on it: `python -m tools.comment REPORT`.

Runs after the review, with a token and on main's code; what the pull request's code wrote is data.
Which pull request it is follows from the event and the hosting service alone, never from the
report. The comment of an earlier review is updated; a review of what is no longer the pull
request's newest commit says nothing.
"""

import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

MARK = "<!-- review -->"
AUTHOR = "github-actions[bot]"  # whoever else writes the mark has not written our comment
MOST = 60_000  # characters; the service takes 65,536
PAGE = 100
USAGE = "usage: python -m tools.comment REPORT"


def call(method, path, data=None, **query):
    """What the hosting service answers, as an object."""
    address = f"{os.environ['GITHUB_API_URL']}/repos/{os.environ['GITHUB_REPOSITORY']}/{path}"
    if query:
        address += f"?{urllib.parse.urlencode(query)}"
    request = urllib.request.Request(
        address,
        method=method,
        data=None if data is None else json.dumps(data).encode(),
        headers={
            "Authorization": f"Bearer {os.environ['GITHUB_TOKEN']}",
            "Accept": "application/vnd.github+json",
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def find_pull_request(run):
    """The number of the open pull request whose newest commit the run has reviewed, or None."""
    head = f"{run['head_repository']['owner']['login']}:{run['head_branch']}"
    found = call("GET", "pulls", state="open", head=head)
    return next((pull["number"] for pull in found if pull["head"]["sha"] == run["head_sha"]), None)


def find_comment(number):
    """The address of our comment on the pull request, or None."""
    page = 1
    while True:
        found = call("GET", f"issues/{number}/comments", per_page=PAGE, page=page)
        for comment in found:
            if comment["user"]["login"] == AUTHOR and comment["body"].startswith(MARK):
                return f"issues/comments/{comment['id']}"
        if len(found) < PAGE:
            return None
        page += 1


def read_report(path):
    """The report as text that calls nobody, or a line where there is none."""
    if not path.is_file() or path.is_symlink():
        return "There is no report."
    with path.open(encoding="utf-8", errors="replace") as report:
        text = report.read(MOST + 1)
    if len(text) > MOST:
        text = text[:MOST] + "\n\n(cut here: the whole report is with the run)"
    return text.replace("@", "@\N{ZERO WIDTH SPACE}")


def compose(run, report):
    """The comment's text."""
    return (
        f"{MARK}\n**Review of {run['head_sha'][:8]}: {run['conclusion']}** "
        f"([run]({run['html_url']})). What follows was written by the code under review.\n\n"
        f"{report}"
    )


def main():
    """As the module says."""
    if len(sys.argv) != 2:
        sys.exit(USAGE)
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    run = event["workflow_run"]
    try:
        number = find_pull_request(run)
        if number is None:
            print(f"no open pull request ends at {run['head_sha']}: nothing to say")
            return
        body = {"body": compose(run, read_report(Path(sys.argv[1])))}
        known = find_comment(number)
        if known:
            call("PATCH", known, body)
        else:
            call("POST", f"issues/{number}/comments", body)
    except urllib.error.URLError as error:
        sys.exit(f"the comment could not be written: {error}")
    print(f"{'updated' if known else 'wrote'} the comment on pull request {number}")


if __name__ == "__main__":
    main()
