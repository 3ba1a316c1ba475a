"""`asv publish` makes the whole dashboard: the first page, and asv's own without the network."""

import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from asv import util
from asv_history import ROOT, Project

from tools import environment, limits
from tools.dashboard import chart, page, site, text, vendor
from tools.history import Measured, Row

OUTPUT = "relative_error.RelativeError.track_output"
BYTES = "memory.Memory.track_bytes_per_weight"
FETCHED = pytest.mark.skipif(
    not vendor.fetched(),
    reason="the dashboard's libraries are missing: python3 -m tools.environment dev fetches them",
)


VOID = {"meta", "link", "wbr"}


class Page(HTMLParser):
    """The addresses in a page, and the tags that are open at its end or closed out of turn."""

    def __init__(self, html):
        super().__init__()
        self.open, self.links = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.links += [value for name, value in attributes if name in ("href", "src")]

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        if self.open[-1:] == [tag]:
            self.open.pop()


def published(folder, noise=0.003, plant=lambda project: None, commits=8):
    project = Project(folder, commits, noise)
    plant(project)
    project.write()
    (folder / ".venv").mkdir()
    if vendor.fetched():
        (folder / ".venv" / "dashboard").symlink_to(environment.VENV / "dashboard")
    done = project.asv("publish")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    return published(tmp_path_factory.mktemp("quiet"))


def first_page(project):
    return (project.html / "index.html").read_text()


def test_the_first_page_of_a_quiet_history_shows_nothing_worse(quiet):
    html = first_page(quiet)
    assert Page(html).open == []
    (state,) = re.findall(r'class="verdict [\w-]+" data-state="([\w ]+)"', html)
    assert state in ("fine", "undecided")
    assert "0 worse" in html
    assert "0 not measured" in html
    assert quiet.hashes[-1][:8] in html
    assert "Intel(R) Xeon(R) Processor, 2 cores, 24 GiB" in html


def test_it_is_whole_in_itself(quiet):
    links = Page(first_page(quiet)).links
    assert {link.split("#")[0] for link in links} == {"", "asv.html", "swallow.ico"}
    assert "http" not in re.sub(r"<title>.*?</title>", "", first_page(quiet))
    assert "<script" not in first_page(quiet)


def test_every_method_has_its_line(quiet):
    html = first_page(quiet)
    lines = re.findall(r'data-method="(\w+)" data-preset="([\w-]+)"', html)
    assert len(lines) == len(set(lines)) == 2 * 8
    assert html.count('<svg class="chart"') == 2 * (4 * 4 + 4)
    assert html.count('<svg class="spark"') == 2 * 4 * 5
    assert html.count('class="floor">exact') >= 2 * (4 * 4 + 4)


@FETCHED
def test_asvs_page_asks_only_its_own_folder(quiet):
    links = Page((quiet.html / "asv.html").read_text()).links
    here = [link for link in links if not link.startswith(("http", "#"))]
    assert len([link for link in here if link.startswith("vendor/")]) == 10
    for link in here:
        assert (quiet.html / link).is_file(), link
    # What is left are anchors that somebody may click.
    assert [link for link in links if link.startswith("http")] == [
        "https://github.com/airspeed-velocity/asv/"
    ]
    assert "integrity=" not in (quiet.html / "asv.html").read_text()


def test_what_the_feed_links_to_is_asvs_page(quiet):
    def plain(name):
        return (quiet.html / name).read_text()

    assert "index.html#" not in plain("regressions.xml")


def test_all_data_can_be_read_without_requests(quiet):
    files = list(quiet.html.rglob("*.json"))
    assert len(files) > 40
    for file in files:
        script = file.with_name(file.name + ".js").read_text()
        assert script.startswith("document.currentScript.answer(")
        assert json.loads(script[len("document.currentScript.answer(") : -3]) is not None


def test_without_the_libraries_a_line_says_what_is_missing(tmp_path):
    project = Project(tmp_path, 3).write()
    done = project.asv("publish")
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "tools.environment" in line]
    assert "from the network" in line
    assert Page(first_page(project)).open == []
    assert "https://code.jquery.com" in (project.html / "asv.html").read_text()


def test_infinity_is_an_error_and_not_a_publishing_that_never_ends(tmp_path):
    project = Project(tmp_path, 3)
    project.put(math.inf, 1, OUTPUT, "AMXINT8_SFT", "quick-memory")
    done = project.write().asv("publish")
    assert done.returncode == 1
    assert "is infinite" in done.stdout + done.stderr


def test_nothing_measured_is_a_page_too(tmp_path):
    project = Project(tmp_path, 1)
    done = project.asv("publish")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing is measured yet" in first_page(project)


def test_a_page_of_asv_that_changed_is_an_error(tmp_path):
    with pytest.raises(util.UserError, match=r"asks for https://cdn\.example/new\.js, which no"):
        vendor.localize('<script src="https://cdn.example/new.js"></script>', tmp_path)
    with pytest.raises(util.UserError, match="has 0 times '</head>', wanted one"):
        site.once("<html></html>", "</head>", "")


def test_names_in_results_are_no_html(quiet):
    row = Row("a.B.track_<c>", (("method", "'M'"),), "%", False, (Measured(1.0),))
    assert "<c>" not in page.what(row, None)
    assert "<c>" not in chart.draw(row.points, ["<c>"], {}, [], "<c>")


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (None, "%", "failed"),
        (math.nan, "%", "n/a"),
        (0.22481, "%", "0.2248%"),
        (1.7082, "x", "1.71\N{MULTIPLICATION SIGN}"),
        (2.0296, "bytes", "2.03 B"),
        (3e8, "bytes", "300M"),
        (0.0034164, "seconds", "3.42ms"),
    ],
)
def test_values_are_written_as_a_person_does(value, unit, written):
    assert text.value(value, unit) == written


def make_row(metric, method, preset, suite="RelativeError"):
    params = (("method", repr(method)), ("preset", repr(preset)))
    return Row(f"module.{suite}.{metric}", params, "%", False, ())


@pytest.mark.parametrize(
    ("row", "ceiling"),
    [
        (make_row("track_output", "AMXINT8_SFT", "quick-memory"), 10),
        (make_row("track_output", "AMXINT8_SFT", "S1"), 1.8),
        (make_row("track_output", "AMXINT8_SFT", "S3"), 10),
        (make_row("track_grad_input", "AMXINT4_SFT", "S1"), 19),
        (make_row("track_grad_up_lora_a", "AMXINT4_SFT", "S1"), 17),
        (make_row("track_grad_up_lora_a", "AMXINT4_SFT", "S2"), 40),
        (make_row("track_grad_routing_weights", "AMXINT4_SFT", "S1"), 40),
        (make_row("track_kernel_error", "AMXINT4_SFT", "S1"), 1.2),
        (make_row("track_kernel_error", "AMXINT4_SFT", "quick-memory"), None),
        (make_row("track_output", "AMXBF16", "quick-memory"), 5),
        (make_row("track_bytes_per_weight", "AMXINT8", "S2", "Memory"), 1.02),
        (make_row("track_bytes_per_weight", "AMXINT8", "quick-memory", "Memory"), None),
        (make_row("track_times_over_torch", "AMXINT8_SFT", "S1", "Roofline"), None),
    ],
    ids=lambda value: f"{value.metric} {value.params}" if isinstance(value, Row) else None,
)
def test_ceilings_are_those_of_the_methods(row, ceiling):
    assert limits.ceiling(row) == (None if ceiling is None else pytest.approx(ceiling))


def test_the_limits_are_the_packages_own():
    from kt_kernel import methods

    assert limits.load_methods().METHODS.keys() == methods.METHODS.keys()
    assert Path(limits.load_methods().__file__) == Path(methods.__file__)


def test_every_library_is_pinned_by_version_and_hash():
    wanted = json.loads((ROOT / "requirements" / "dashboard" / "package.json").read_text())
    lock = json.loads((ROOT / "requirements" / "dashboard" / "package-lock.json").read_text())
    packages = {
        name.removeprefix("node_modules/"): p for name, p in lock["packages"].items() if name
    }
    assert wanted["dependencies"] == {name: p["version"] for name, p in packages.items()}
    assert all(p["integrity"].startswith("sha512-") for p in packages.values())
    assert {file.split("/")[0] for file in vendor.FILES.values()} == set(packages)


@pytest.fixture
def fake_npm(tmp_path, monkeypatch):
    """environment.fetch_dashboard with a folder of its own, and an npm that exits as told."""
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(environment, "STAMPS", tmp_path / ".venv" / "stamps")
    environment.STAMPS.mkdir(parents=True)
    calls = []

    def run(command, check, cwd=None):
        calls.append(list(map(str, command)))
        if calls[-1][1] == "ci":
            code = (tmp_path / "code").read_text()
            if code != "0":
                raise subprocess.CalledProcessError(int(code), "npm")
            (cwd / "node_modules").mkdir(exist_ok=True)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(environment.subprocess, "run", run)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/npm")
    return tmp_path / "code", calls


def test_the_libraries_are_fetched_once(fake_npm):
    code, calls = fake_npm
    code.write_text("0")
    environment.fetch_dashboard()
    environment.fetch_dashboard()
    ((npm, *arguments),) = calls
    assert npm == "/usr/bin/npm"
    assert arguments[:2] == ["ci", "--ignore-scripts"]
    assert (environment.VENV / "dashboard" / "package-lock.json").exists()


def test_where_they_cannot_be_fetched_set_up_goes_on(fake_npm, capsys):
    code, calls = fake_npm
    code.write_text("1")
    environment.fetch_dashboard()
    assert "could not be fetched" in capsys.readouterr().out
    code.write_text("0")
    environment.fetch_dashboard()
    assert len(calls) == 2


def test_where_there_is_no_npm_pip_brings_it(fake_npm, monkeypatch):
    code, calls = fake_npm
    code.write_text("0")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    environment.fetch_dashboard()
    assert calls[0][-1].endswith("requirements/npm.txt")
    assert calls[1][0] == str(environment.VENV / "bin" / "npm")
