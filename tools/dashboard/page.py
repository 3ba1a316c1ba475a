"""The first page: what the newest commit did, what moved and by which commit, every method's line.

Plain HTML without scripts, whole in itself: its style and its charts stand in it.
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path

from tools import limits, verdict
from tools.dashboard import methods, text

STYLE = Path(__file__).with_name("style.css")
OPEN_ROWS = 10  # of what moved; the rest is folded
STATES = (verdict.WORSE, verdict.NOT_MEASURED, verdict.UNDECIDED, verdict.FINE)
ERRORS_GRAPH = "relative_error.RelativeError.track_output"


@dataclass(frozen=True)
class Site:
    """What the pages of one dashboard share."""

    project: str
    show_commit_url: str
    pages: dict[str, str]  # machine -> its page; the first measured last


def first_page(history, site):
    """The page of one machine's History, as HTML."""
    judged = verdict.judge_all(history.rows, limits.ceiling)
    name = history.machine["machine"]
    machine = name if len(site.pages) > 1 else None
    newest = history.commits[-1]
    body = (
        navigation(site, name)
        + headline(judged, history, site)
        + what_moved(judged, history, site, machine)
        + methods.sections(judged, history.commits, machine)
        + listed(judged, verdict.NOT_MEASURED, machine)
        + listed(judged, verdict.UNDECIDED, machine)
        + footer(history)
    )
    return document(f"{site.project}: {newest.hash[:8]} on {name}", body)


def empty_page(site):
    """Where nothing was measured yet."""
    body = navigation(site, "") + (
        '<section class="verdict not-measured"><h1>Nothing is measured yet</h1><p>There are no '
        "results of commits on the branches of asv.conf.json: run <code>make bench</code>.</p>"
        "</section>"
    )
    return document(site.project, body)


def document(title, body):
    """A whole page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE.read_text(encoding='utf-8')}</style>"
        '<link rel="icon" href="swallow.ico">'
        f"</head><body>{body}</body></html>\n"
    )


def navigation(site, shown):
    """To asv's pages, and to the other machines' first pages."""
    links = [
        ("Regressions", f"{text.ASV_PAGE}#/regressions"),
        ("Graphs", f"{text.ASV_PAGE}#{ERRORS_GRAPH}"),
        ("Grid", f"{text.ASV_PAGE}#/"),
        ("List", f"{text.ASV_PAGE}#/summarylist"),
    ]
    links += [(machine, page) for machine, page in site.pages.items() if machine != shown]
    anchors = "".join(f'<a href="{escape(url)}">{escape(name)}</a>' for name, url in links)
    return f"<nav><strong>{escape(site.project)}</strong>{anchors}</nav>"


def headline(judged, history, site):
    """The verdict on the newest commit, and where it was measured."""
    counts = {state: sum(one.verdict.state == state for one in judged) for state in STATES}
    state = next((state for state in STATES if counts[state]), verdict.NOT_MEASURED)
    rows, last = len(judged), len(history.commits) - 1
    by_newest = sum(
        one.verdict.state == verdict.WORSE and one.cause is not None and one.cause.at == last
        for one in judged
    )
    told = {
        verdict.WORSE: f"Worse: {counts[state]} of {rows} rows, {by_newest} by this commit",
        verdict.NOT_MEASURED: f"Not measured: {counts[state]} of {rows} rows",
        verdict.UNDECIDED: f"Undecided: {counts[state]} of {rows} rows, none worse",
        verdict.FINE: f"Fine: all {rows} rows",
    }[state]
    chips = "".join(
        f'<a class="chip {text.css(name)}" href="#{text.css(name)}">{counts[name]} {name}</a>'
        for name in STATES
    )
    machine, commit = history.machine, history.commits[-1]
    where = [machine["machine"], machine["cpu"], f"{machine['num_cpu']} cores", machine["os"]]
    if machine["ram"].isdigit():
        where.insert(3, f"{int(machine['ram']) / 2**30:.0f} GiB")
    where += [f"{name} {version}" for name, version in history.software.items()]
    return (
        f'<section class="verdict {text.css(state)}" data-state="{state}"><h1>{told}</h1>'
        f"<p>{text.commit(commit, site.show_commit_url)} "
        f'<span class="soft">of {text.day(commit.date)}, the newest of {len(history.commits)} '
        f"measured</span></p><p>{chips}</p>"
        f'<p class="soft">{escape(", ".join(filter(None, where)))}</p></section>'
    )


def what_moved(judged, history, site, machine):
    """The rows that are worse, then the levels that fell, each with the commit that did it."""
    worse = sorted(
        (one for one in judged if one.verdict.state == verdict.WORSE),
        key=lambda one: (
            -(one.cause.at if one.cause else -1),
            -(one.verdict.change or 0),
        ),
    )
    better = sorted(
        (
            (one, move)
            for one in judged
            if one.verdict.state != verdict.WORSE
            for move in [move for move in one.moves if move.stands][-1:]
            if move.change < 0
        ),
        key=lambda pair: (-pair[1].at, pair[1].change),
    )
    rows = [worse_row(one, history, site, machine) for one in worse]
    rows += [better_row(one, move, history, site, machine) for one, move in better]
    if not rows:
        return '<section><h2>What moved</h2><p class="soft">Nothing.</p></section>'
    shown = max(OPEN_ROWS, min(len(worse), 2 * OPEN_ROWS))
    folded = ""
    if rows[shown:]:
        folded = (
            f"<details><summary>{len(rows) - shown} more</summary>{table(rows[shown:])}</details>"
        )
    return f'<section id="worse"><h2>What moved</h2>{table(rows[:shown])}{folded}</section>'


def table(rows):
    """Of what moved."""
    heads = ("change", "row", "before", "now", "noise", "by")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return (
        f'<table class="rows"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def moved_row(state, change, one, before, by, machine):
    """A line of the table."""
    row = one.row
    return (
        f'<tr class="{state}" data-benchmark="{row.benchmark}" data-method="{row.param("method")}">'
        f'<td class="number change">{change}</td><td class="what">{what(row, machine)}</td>'
        f'<td class="number" data-name="before">{before}</td>'
        f'<td class="number" data-name="now">{newest(row)}</td>'
        f'<td class="number" data-name="noise">{text.floor(one.verdict.floor, row)}</td>'
        f'<td class="commit">{by}</td></tr>'
    )


def newest(row):
    """The row's newest value."""
    return text.value(row.points[-1].value, row.unit)


def what(row, machine):
    """The row's name as a link to its graph."""
    place = " ".join(filter(None, (row.param("method"), row.param("preset"))))
    return (
        f'<a href="{escape(text.graph(row, machine))}"><code>{escape(text.called(row))}</code></a> '
        f"{escape(place)}"
    )


def worse_row(one, history, site, machine):
    """A row that is worse: against its best level, by the largest step or by creeping."""
    row, found = one.row, one.verdict
    if found.change is None:
        return moved_row("worse", "over its ceiling", one, "", escape(found.why), machine)
    now = row.points[-1].value
    best = now - found.change if row.by_difference else now / (1 + found.change)
    if one.cause:
        by = blamed(one.cause, history, site)
    else:
        by = '<span class="soft">no single commit: it crept</span>'
    change = text.change(found.change, row)
    return moved_row("worse", change, one, text.value(best, row.unit), by, machine)


def better_row(one, move, history, site, machine):
    """A row whose level fell and stayed."""
    change = text.change(move.change, one.row)
    before = text.value(move.before, one.row.unit)
    return moved_row("better", change, one, before, blamed(move, history, site), machine)


def blamed(move, history, site):
    """The commit that has the new level, and how many unmeasured ones it may have been instead."""
    span = history.commits[move.since + 1 : move.at + 1]
    others = sum(commit.unmeasured + 1 for commit in span) - 1
    told = text.commit(history.commits[move.at], site.show_commit_url)
    if others:
        told += f' <span class="soft">or one of {others} unmeasured before it</span>'
    return told


def listed(judged, state, machine):
    """The rows of a verdict, folded."""
    rows = [one for one in judged if one.verdict.state == state]
    if not rows:
        return ""
    lines = "".join(
        f'<tr class="{text.css(state)}"><td class="what">{what(one.row, machine)}</td>'
        f'<td class="number" data-name="now">{newest(one.row)}</td>'
        f'<td class="number" data-name="noise">{text.floor(one.verdict.floor, one.row)}</td>'
        f'<td class="commit soft">{escape(one.verdict.why)}</td></tr>'
        for one in rows
    )
    return (
        f"<details><summary>{len(rows)} {state}</summary>"
        f'<table class="rows" id="{text.css(state)}"><tbody>{lines}</tbody></table></details>'
    )


def footer(history):
    """What the words mean."""
    return (
        "<footer><h2>How to read it</h2>"
        "<p>Lower is better everywhere; no figure is an average over methods or presets. Beside "
        "each figure stands its noise: the change between two commits that noise alone passes "
        "about once in a hundred times, from the history of the row (of its whole benchmark, while "
        "it is short) and, of times, from the 99% interval of the newest run; <em>exact</em> where "
        "commits repeat a value to the last digit.</p>"
        "<p><b>Worse</b> is what exceeds its best level so far by more than its noise and by 1% "
        "(errors, bytes), 10% (times) or 1 percentage point (overheads), twice in a row unless it "
        "is exact; or what exceeds its ceiling, which is the limit of its method and, on S1, the "
        "target. A time that grew no more than PyTorch's product, which no commit touches, is not: "
        "the machine was slow. <b>Not measured</b> is what should have a value and has none, "
        "<b>undecided</b> what noise hides.</p>"
        "<p>In the charts of errors, which begin at 0, the solid line is the limit that the "
        "error may never pass (dotted at the top edge where it is far above), the dashed one what "
        "is aimed at on S1, a cross a commit without a value. "
        f"Measured last on {text.day(history.measured_at)}.</p></footer>"
    )
