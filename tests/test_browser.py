"""The dashboard in a real browser: every page over a history with planted regressions.

Served by a static host and by `asv preview`, and opened from its folder on disk. Chromium may look
up no host but this one, and any error on its console fails the test.
"""

import contextlib
import functools
import http.server
import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading

import pytest
from asv_history import Project
from playwright.sync_api import sync_playwright

from tools import environment
from tools.dashboard import vendor

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="chromium is missing: apt-get install chromium"),
    pytest.mark.skipif(
        not vendor.fetched(),
        reason="the dashboard's libraries are missing: python3 -m tools.environment dev",
    ),
]

COMMITS, STEP, SLOWER, CREEPS = 16, 11, 9, 10
OUTPUT = ("relative_error.RelativeError.track_output", "AMXINT8_SFT", "quick-memory")
FORWARD = ("forward.Forward.time_forward", "AMXINT4_SFT", "quick-compute")
CREPT = ("relative_error.RelativeError.track_grad_input", "AMXINT4_SFT", "quick-compute")
FAILED = (
    "roofline.Roofline.track_times_over_torch",
    "AMXINT4_KGroup_SFT",
    "quick-memory",
    "forward",
)
GONE = ("memory.Memory.track_bytes_per_weight", "AMXBF16_SFT", "quick-compute")
LOUD = ("error", "warning")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """30% more error from one commit on, twice the time from another, 0.9% more error with each of
    the last; and on the newest a failure and a value that is not there."""
    made = Project(tmp_path_factory.mktemp("browser"), COMMITS, noise=0.003)
    made.plant(1.3, STEP, *OUTPUT)
    made.plant(2.0, SLOWER, *FORWARD)
    for number in range(CREEPS, COMMITS):
        made.plant(1.009, number, *CREPT)
    made.put(None, COMMITS - 1, *FAILED)
    made.put(math.nan, COMMITS - 1, *GONE)
    made.write()
    (made.folder / ".venv").mkdir()
    (made.folder / ".venv" / "dashboard").symlink_to(environment.VENV / "dashboard")
    done = made.asv("publish")
    assert done.returncode == 0, done.stdout + done.stderr
    return made


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def server(project):
    """The address of a static host."""
    handler = functools.partial(Quiet, directory=project.html)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{host.server_port}/"
        host.shutdown()


@pytest.fixture
def preview(project):
    """The address at which `asv preview` serves the dashboard."""
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "asv", "preview"],
        cwd=project.folder,
        env=project.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        told = next(line for line in process.stdout if "Serving at" in line)
        yield re.search(r"http://[^/\s]+/", told)[0]
        process.terminate()


@pytest.fixture(scope="module")
def browser():
    arguments = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@contextlib.contextmanager
def open_tab(browser, base, width):
    """An empty tab, its attribute `base` the dashboard's address.

    At its end no error was on its console and no request went elsewhere.
    """
    opened = browser.new_page(viewport={"width": width, "height": 800})
    opened.base = base
    opened.set_default_timeout(120_000)  # other tests may have the machine's cores
    errors, asked = [], []
    opened.on("console", lambda m: errors.append(m.text) if m.type in LOUD else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    yield opened
    opened.close()
    assert errors == []
    assert asked
    assert [url for url in asked if not url.startswith(base)] == []


@pytest.fixture(params=[("served", 1200), ("served", 400), ("from disk", 1200)], ids=str)
def tab(request, browser, project):
    how, width = request.param
    served = how == "served"
    base = request.getfixturevalue("server") if served else f"file://{project.html}/"
    with open_tab(browser, base, width) as opened:
        yield opened


def fits(tab):
    return tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def row_on_first_page(tab, name, method):
    return tab.locator(f'#worse tr.worse[data-benchmark="{name}"][data-method="{method}"]')


def test_the_first_page_names_what_moved_and_by_which_commit(tab, project):
    tab.goto(f"{tab.base}index.html")
    assert fits(tab)
    assert tab.locator(".verdict").get_attribute("data-state") == "worse"
    assert re.fullmatch(r"Worse: 3 of \d+ rows, 0 by this commit", tab.inner_text("h1"))
    for planted, change, number in ((OUTPUT, "+30.0%", STEP), (FORWARD, "2", SLOWER)):
        row = row_on_first_page(tab, *planted[:2])
        assert row.count() == 1
        assert planted[2] in row.inner_text()
        assert row.locator(".change").inner_text().startswith((change, "+10", "+9"))
        assert project.hashes[number][:8] in row.inner_text()
    crept = row_on_first_page(tab, *CREPT[:2])
    assert "it crept" in crept.inner_text()
    assert crept.locator(".change").inner_text() == f"+{100 * (1.009**6 - 1):.1f}%"


def test_a_worse_error_is_red_in_its_methods_line_alone(tab):
    tab.goto(f"{tab.base}index.html")
    lines = tab.locator("article.method.worse")
    found = {
        (line.get_attribute("data-method"), line.get_attribute("data-preset"))
        for line in lines.all()
    }
    assert found == {planted[1:3] for planted in (OUTPUT, FORWARD, CREPT)}
    (red,) = tab.locator('[data-method="AMXINT8_SFT"] .figure.worse').all()
    value = red.locator(".value")
    color = value.evaluate("element => getComputedStyle(element).color")
    assert color == "rgb(198, 40, 40)"
    assert red.locator("circle.dot.worse").count() == 2


def test_what_has_no_value_is_not_measured(tab):
    tab.goto(f"{tab.base}index.html")
    assert "2 not measured" in tab.locator(".verdict").inner_text()
    tab.locator("summary", has_text="2 not measured").click()
    table = tab.locator("#not-measured")
    assert "failed" in table.locator("tr", has_text="times_over_torch, forward").inner_text()
    assert "n/a" in table.locator("tr", has_text="bytes_per_weight").inner_text()
    line = tab.locator(f'article[data-method="{GONE[1]}"][data-preset="{GONE[2]}"]')
    assert "not-measured" in line.get_attribute("class")
    assert line.locator("tr.not-measured .value").inner_text() == "n/a"


CHARTS = """() => [...document.querySelectorAll("svg.chart")].map(chart => [
    chart.querySelectorAll("circle.dot").length,
    chart.querySelectorAll("line.target, line.limit").length,
    chart.getBoundingClientRect().height])"""


def test_charts_have_a_point_for_each_commit(tab):
    tab.goto(f"{tab.base}index.html")
    charts = tab.evaluate(CHARTS)
    assert len(charts) == 2 * (4 * 4 + 4)
    for points, levels, height in charts:
        assert points == COMMITS
        assert levels >= 1
        assert height > 40


CONTRAST = """names => {
    const light = color => {
        const [r, g, b] = color.match(/[0-9.]+/g).map(v => v / 255).map(
            v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const back = light(getComputedStyle(document.body).backgroundColor);
    return names.map(name => {
        const text = light(getComputedStyle(document.querySelector(name)).color);
        return [name, (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05)];
    });
}"""


def test_text_stands_out_in_light_and_dark(tab):
    names = ["body", "a", ".soft", ".change", ".value", ".floor", ".held .limit", ".held .target"]
    names += [f".chip.{state}" for state in ("worse", "undecided", "not-measured", "fine")]
    backs = set()
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        tab.goto(f"{tab.base}index.html")
        backs.add(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        for name, ratio in tab.evaluate(CONTRAST, names):
            assert ratio >= 4.5, f"{name}, {scheme}"
    assert len(backs) == 2


def test_asvs_pages_are_one_click_away_and_lead_back(tab):
    tab.goto(f"{tab.base}index.html")
    shown = {
        "Regressions": "#regressions-body table",
        "Grid": "#summarygrid-display .benchmark-plot canvas",
        "Graphs": "#main-graph canvas",
        "List": "#summarylist-body table",
    }
    for link, what in shown.items():
        tab.click(f"nav >> text={link}")
        tab.locator(what).first.wait_for()
        bar, found = tab.locator("#nav").bounding_box(), tab.locator(what).first.bounding_box()
        assert bar["y"] + bar["height"] <= found["y"], f"the bar of links covers {link}"
        tab.click("text=First page")
        tab.locator(".verdict").wait_for()


POINTS = "placeholder => $(placeholder).data('plot').getData().map(s => s.data.length)"


def test_a_figure_leads_to_its_graph_which_has_points(tab):
    tab.goto(f"{tab.base}index.html")
    tab.locator(
        'article[data-method="AMXINT8_SFT"][data-preset="quick-memory"] .figure a'
    ).first.click()
    graph = tab.locator("#main-graph")
    graph.locator("canvas").first.wait_for()
    assert graph.evaluate(POINTS) == [COMMITS]
    assert OUTPUT[0] in tab.url
    assert fits(tab)


def test_a_graph_shows_every_method_by_itself(tab):
    tab.goto(f"{tab.base}asv.html#{OUTPUT[0]}")
    graph = tab.locator("#main-graph")
    graph.locator("canvas").first.wait_for()
    assert graph.evaluate(POINTS) == [COMMITS] * 8


def test_the_grid_has_a_graph_for_each_benchmark(tab, project):
    tab.goto(f"{tab.base}asv.html")
    tab.locator("#summarygrid-display .benchmark-plot canvas").first.wait_for()
    names = json.loads((project.html / "index.json").read_text())["benchmarks"]
    assert tab.locator("#summarygrid-display .benchmark-plot").count() == len(names)
    plot = tab.locator("#summarygrid-display .benchmark-plot:has(canvas)").first
    assert plot.evaluate(POINTS) == [COMMITS]


def test_the_planted_regressions_are_listed(tab, project):
    tab.goto(f"{tab.base}asv.html#/regressions")
    tab.locator("#regressions-body table").first.wait_for()
    rows = tab.locator("#regressions-body tr").all_inner_texts()
    for planted, number in ((OUTPUT, STEP), (FORWARD, SLOWER)):
        name = f"{planted[0]}('{planted[1]}', '{planted[2]}')"
        (row,) = [text for text in rows if text.startswith(name)]
        assert project.hashes[number][:8] in row
    assert len(rows) <= 5  # a head for each table, and nothing that was not planted


def test_asv_preview_serves_it(browser, preview):
    with open_tab(browser, preview, 1200) as tab:
        tab.goto(preview)
        tab.locator(".verdict").wait_for()
        tab.click("nav >> text=Graphs")
        tab.locator("#main-graph canvas").first.wait_for()
        assert tab.locator("#main-graph").evaluate(POINTS) == [COMMITS] * 8
