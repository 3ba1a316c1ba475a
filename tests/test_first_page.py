"""What the first page says of a history, made by hand."""

import math
import re

import pytest

from tools import verdict
from tools.dashboard import methods, page
from tools.history import Commit, History, Measured, Row

LORA = [f"track_grad_{name}_lora_{part}" for name in ("gate", "up", "down") for part in "ab"]
SITE = page.Site("project", "", {"vm": "index.html"})


def make_row(metric, values, method="AMXINT8_SFT", preset="quick-compute", suite="RelativeError"):
    params = (("method", repr(method)), ("preset", repr(preset)))
    points = tuple(map(Measured, values))
    return Row(f"module.{suite}.{metric}", params, "%", False, points)


def make_page(rows, site=SITE, unmeasured=0):
    count = len(rows[0].points)
    commits = tuple(
        Commit(f"{i}" * 40, 10**12, f"subject <{i}>", unmeasured if i else 0) for i in range(count)
    )
    machine = {"machine": "vm", "cpu": "c", "num_cpu": "2", "ram": "?", "os": "o", "arch": "a"}
    history = History(machine, {"python": "3.11"}, 10**12, commits, tuple(rows))
    return page.first_page(history, site)


def judge(rows):
    return verdict.judge_all(rows, lambda row: None)


def test_the_worst_of_the_gradients_is_shown_and_no_mean():
    rows = [make_row(metric, [1.0 + i / 10] * 4) for i, metric in enumerate(LORA)]
    shown = methods.worst_of(judge(rows))
    assert [point.value for point in shown.row.points] == [1.5] * 4
    assert shown.row.metric == LORA[-1]


def test_a_gradient_that_is_worse_is_named_though_another_is_larger():
    rows = [make_row(metric, [2.0 if i else 1.0] * 4) for i, metric in enumerate(LORA)]
    rows[0] = make_row(LORA[0], [1.0, 1.0, 1.0, 1.3])
    shown = methods.worst_of(judge(rows))
    assert (shown.verdict.state, shown.row.metric) == (verdict.WORSE, LORA[0])


def test_where_one_gradient_has_no_value_the_worst_has_none():
    rows = [make_row(metric, [1.0] * 4) for metric in LORA]
    rows[2] = make_row(LORA[2], [1.0, 1.0, 1.0, math.nan])
    shown = methods.worst_of(judge(rows))
    assert shown.verdict.state == verdict.NOT_MEASURED
    assert [point.is_number for point in shown.row.points] == [True] * 3 + [False]


def test_all_fine():
    html = make_page([make_row("track_output", [1.7] * 5)])
    assert "<h1>Fine: all 1 rows</h1>" in html
    assert "Nothing." in html


def test_the_newest_commit_is_named_when_it_did_it():
    html = make_page([make_row("track_output", [1.7] * 5 + [1.8])])
    assert "<h1>Worse: 1 of 1 rows, 1 by this commit</h1>" in html
    assert '<td class="commit"><code>55555555</code> subject &lt;5&gt;</td>' in html


def test_commits_that_were_not_measured_may_have_done_it():
    html = make_page([make_row("track_output", [1.7] * 5 + [1.8, 1.8])], unmeasured=3)
    assert "or one of 3 unmeasured before it" in html
    gap = make_row("track_output", [1.7] * 4 + [math.nan, 1.8, 1.8])
    assert "or one of 7 unmeasured before it" in make_page([gap], unmeasured=3)


def test_what_is_over_its_ceiling_from_the_start_is_worse():
    html = make_page([make_row("track_output", [11.0] * 5)])
    assert "over its ceiling" in html
    assert "over its ceiling of 10 %" in html


def test_what_has_no_value_is_not_fine():
    html = make_page([make_row("track_output", [1.7] * 4 + [None])])
    assert "<h1>Not measured: 1 of 1 rows</h1>" in html
    assert ">failed<" in html


def test_a_method_without_any_value_has_its_line():
    html = make_page([make_row("track_output", [math.nan] * 4)])
    assert 'class="method not-measured small" data-method="AMXINT8_SFT"' in html
    assert html.count('class="missing"') == 4


def test_the_better_is_told_with_its_commit():
    html = make_page([make_row("track_output", [1.7] * 5 + [1.5, 1.5])])
    (row,) = re.findall(r'<tr class="better".*?</tr>', html)
    assert "-11.8%" in row
    assert "55555555" in row


def test_much_that_moved_is_folded():
    rows = [make_row("track_output", [1.7] * 5 + [1.8], suite=f"Suite{i}") for i in range(60)]
    html = make_page(rows)
    assert html.count('<tr class="worse" data-benchmark') == 60
    shown, folded = html.split("<details><summary>40 more</summary>")
    assert shown.count('<tr class="worse" data-benchmark') == 20
    assert folded.count('<tr class="worse" data-benchmark') == 40


def test_each_machine_leads_to_the_others_and_to_its_own_graphs():
    site = page.Site("project", "", {"vm": "index.html", "other": "machine-1-other.html"})
    html = make_page([make_row("track_output", [1.7] * 5)], site)
    assert '<a href="machine-1-other.html">other</a>' in html
    assert "&amp;machine=vm" in html
    assert "machine=vm" not in make_page([make_row("track_output", [1.7] * 5)])


def test_a_commit_leads_to_its_page_where_there_is_one():
    site = page.Site("project", "https://example.org/commit/", {"vm": "index.html"})
    html = make_page([make_row("track_output", [1.7] * 5 + [1.8])], site)
    assert f'<a href="https://example.org/commit/{"5" * 40}"><code>55555555</code></a>' in html


@pytest.mark.parametrize(
    ("values", "states"),
    [([1.0] * 4, {}), ([1.0] * 3 + [1.3], {3: "worse"}), ([1.0] * 3 + [0.7], {3: "better"})],
)
def test_dots_that_moved_are_marked(values, states):
    (one,) = judge([make_row("track_output", values), *[make_row("track_output", [1.0] * 4)] * 3])[
        :1
    ]
    assert methods.moved(one) == states


def test_a_level_that_was_left_again_is_marked_and_blames_nobody():
    html = make_page([make_row("track_output", [1.7] * 4 + [1.9] * 3 + [1.7] * 3)])
    assert "<h1>Fine: all 1 rows</h1>" in html
    assert (html.count('class="dot worse"'), html.count('class="dot better"')) == (1, 1)
    moved = html[html.index("What moved") : html.index("</section>", html.index("What moved"))]
    assert "subject &lt;7&gt;" in moved
    assert "subject &lt;4&gt;" not in moved
