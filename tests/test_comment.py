"""The comment on a pull request, against a hosting service that this machine plays."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from tools import comment

SHA = "0c7bc6e10b526802e72fde508453cffb8d0e1849"
RUN = {
    "head_sha": SHA,
    "head_branch": "faster",
    "head_repository": {"owner": {"login": "someone"}},
    "conclusion": "failure",
    "html_url": "http://localhost/runs/1",
}
PULLS = [{"number": 7, "head": {"sha": SHA}}]


class Service:
    """Pull requests, their comments, and what was asked."""

    def __init__(self):
        self.pulls, self.comments, self.asked = PULLS, [], []

    def answer(self, method, path, query, body):
        self.asked.append((method, path, query))
        if path == "/repos/o/p/pulls":
            return self.pulls if query["head"] == ["someone:faster"] else []
        if path == "/repos/o/p/issues/7/comments" and method == "GET":
            first = 100 * (int(query["page"][0]) - 1)
            return self.comments[first : first + 100]
        if path == "/repos/o/p/issues/7/comments" and method == "POST":
            self.comments.append(self.made(len(self.comments), "github-actions[bot]", body["body"]))
            return {}
        place = re.fullmatch("/repos/o/p/issues/comments/(\\d+)", path)
        if place and method == "PATCH":
            self.comments[int(place[1])]["body"] = body["body"]
            return {}
        return None

    @staticmethod
    def made(number, login, body):
        return {"id": number, "user": {"login": login}, "body": body}


@pytest.fixture
def service(tmp_path, monkeypatch):
    found = Service()

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self):
            assert self.headers["Authorization"] == "Bearer t0ken"
            length = int(self.headers["Content-Length"] or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            asked = urlsplit(self.path)
            answer = found.answer(self.command, asked.path, parse_qs(asked.query), body)
            self.send_response(200 if answer is not None else 404)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_GET = do_POST = do_PATCH = handle_one  # noqa: N815  (http.server's names)

        def log_message(self, *arguments):
            pass

    event = tmp_path / "event.json"
    event.write_text(json.dumps({"workflow_run": RUN}))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        monkeypatch.setenv("GITHUB_API_URL", f"http://127.0.0.1:{host.server_port}")
        monkeypatch.setenv("GITHUB_REPOSITORY", "o/p")
        monkeypatch.setenv("GITHUB_TOKEN", "t0ken")
        monkeypatch.setenv("GITHUB_EVENT_PATH", str(event))
        yield found
        host.shutdown()


@pytest.fixture
def run(tmp_path, monkeypatch):
    report = tmp_path / "report.md"
    report.write_text("| row |\n")

    def main():
        monkeypatch.setattr("sys.argv", ["comment", str(report)])
        comment.main()

    main.report = report
    return main


def test_the_first_review_writes_a_comment_and_the_next_updates_it(service, run, capsys):
    run()
    (written,) = service.comments
    assert written["body"].startswith(f"{comment.MARK}\n**Review of 0c7bc6e1: failure**")
    assert written["body"].endswith("\n\n| row |\n")
    run.report.write_text("another")
    run()
    (written,) = service.comments
    assert written["body"].endswith("another")
    assert capsys.readouterr().out.splitlines() == [
        "wrote the comment on pull request 7",
        "updated the comment on pull request 7",
    ]


def test_only_our_own_comment_is_updated(service, run):
    """Of many, one with our mark by someone else, and ours on the third page."""
    service.comments = [service.made(i, "someone", "words") for i in range(250)]
    service.comments[3]["body"] = f"{comment.MARK}\nnot ours"
    service.comments[220] = service.made(220, comment.AUTHOR, f"{comment.MARK}\nold")
    service.comments[10] = service.made(10, comment.AUTHOR, "another workflow's")
    run()
    assert service.comments[220]["body"].endswith("| row |\n")
    assert len(service.comments) == 250
    assert service.comments[3]["body"].endswith("not ours")
    assert service.comments[10]["body"] == "another workflow's"


def test_a_review_of_an_older_commit_says_nothing(service, run, capsys):
    service.pulls = [{"number": 7, "head": {"sha": "f" * 40}}]
    run()
    assert service.comments == []
    assert f"no open pull request ends at {SHA}" in capsys.readouterr().out


def test_the_report_calls_nobody_and_ends(service, run):
    run.report.write_text("@everyone look\n" + "x" * 100_000)
    run()
    body = service.comments[0]["body"]
    assert "@everyone" not in body
    assert "everyone look" in body
    assert len(body) < 65_536
    assert body.endswith("the whole report is with the run)")


@pytest.mark.parametrize("how", ["missing", "folder", "link"])
def test_without_a_report_it_says_so(service, run, tmp_path, how):
    run.report.unlink()
    if how == "folder":
        run.report.mkdir()
    if how == "link":
        (tmp_path / "secret").write_text("of this machine")
        run.report.symlink_to(tmp_path / "secret")
    run()
    assert service.comments[0]["body"].endswith("There is no report.")


def test_bytes_that_are_no_text_do_not_end_it(service, run):
    run.report.write_bytes(b"row \xff\xfe")
    run()
    assert "row \N{REPLACEMENT CHARACTER}" in service.comments[0]["body"]


def test_a_service_that_refuses_is_one_line(service, run, monkeypatch):
    monkeypatch.setenv("GITHUB_REPOSITORY", "o/other")
    with pytest.raises(SystemExit, match="the comment could not be written: HTTP Error 404"):
        run()
