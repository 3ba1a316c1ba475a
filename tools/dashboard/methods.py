"""One line for each method and preset: errors over history, times as ratios, bytes per weight."""

from dataclasses import dataclass, replace
from html import escape

from benchmarks.presets import FORMATS, METHODS, PRESETS
from tools import limits, verdict
from tools.dashboard import chart, text
from tools.history import Measured

CHARTS = [
    ("output", "track_output"),
    ("input gradient", "track_grad_input"),
    ("worst LoRA gradient", "lora"),
    ("kernel's own, output", "track_kernel_error"),
]
FIGURES = [
    ("roofline, forward", "track_times_over_roofline", "forward"),
    ("roofline, + backward", "track_times_over_roofline", "forward+backward"),
    ("PyTorch, forward", "track_times_over_torch", "forward"),
    ("PyTorch, + backward", "track_times_over_torch", "forward+backward"),
    ("bytes per weight", "track_bytes_per_weight", ""),
]
ORDER = (verdict.WORSE, verdict.NOT_MEASURED, verdict.UNDECIDED, verdict.FINE)


@dataclass(frozen=True)
class Cell:
    """What is shown of a row, or of several of which the worst counts."""

    label: str
    judged: verdict.Judged

    @property
    def newest(self):
        """The newest point."""
        return self.judged.row.points[-1]


def worst_of(judged):
    """One Judged for several rows: at each commit the largest value, and the worst verdict.

    A commit at which one of them has no value has none. The row that is named is the one with the
    worst verdict and, among those, the largest newest value.
    """

    def rank(one):
        newest = one.row.points[-1]
        return -ORDER.index(one.verdict.state), newest.value if newest.is_number else 0

    named = max(judged, key=rank)
    columns = zip(*(one.row.points for one in judged), strict=True)
    points = tuple(
        max(column, key=lambda point: point.value)
        if all(point.is_number for point in column)
        else Measured()
        for column in columns
    )
    return replace(named, row=replace(named.row, points=points))


def find(judged, method, preset):
    """The cells of a method on a preset: those of charts and those of figures."""
    mine = [
        one
        for one in judged
        if (one.row.param("method"), one.row.param("preset")) == (method, preset)
    ]
    charts, figures = [], []
    for label, metric in CHARTS:
        errors = [one for one in mine if one.row.suite == "RelativeError"]
        if metric == "lora":
            rows = [one for one in errors if "lora" in one.row.metric]
        else:
            rows = [one for one in errors if one.row.metric == metric]
        if rows:
            charts.append(Cell(label, worst_of(rows)))
    for label, metric, passes in FIGURES:
        for one in mine:
            if one.row.metric == metric and one.row.param("passes") == passes:
                figures.append(Cell(label, one))
    return mine, charts, figures


def moved(one):
    """The places of its history at which its level moved, with the CSS class of each."""
    return {move.at: "worse" if move.change > 0 else "better" for move in one.moves} | (
        {len(one.row.points) - 1: "worse"} if one.verdict.state == verdict.WORSE else {}
    )


def titles(row, commits):
    """What each point of a chart says."""
    return [
        f"{commit.hash[:8]} {commit.subject}: {text.value(point.value, row.unit)}"
        for commit, point in zip(commits, row.points, strict=True)
    ]


def lines(row):
    """The levels that an error is held against."""
    levels = (("target", limits.target(row)), ("limit", limits.limit(row)))
    return [
        chart.Line(value, f"{kind} {value:.4g}%", kind)
        for kind, value in levels
        if value is not None
    ]


def draw_chart(cell, commits, machine):
    """An error over history, its newest value and noise above it."""
    row, state = cell.judged.row, cell.judged.verdict.state
    against = lines(row)
    held = " ".join(f'<span class="{line.kind}">{escape(line.name)}</span>' for line in against)
    drawn = chart.draw(
        row.points, titles(row, commits), moved(cell.judged), against, f"error of {cell.label}"
    )
    return (
        f'<div class="figure {text.css(state)}"><a href="{escape(text.graph(row, machine))}">'
        f'<div class="name">{escape(cell.label)}</div>'
        f'<div>{written(cell, "span", " ")}</div><div class="held">{held}</div>{drawn}</a></div>'
    )


def written(cell, tag, between=""):
    """The newest value and its noise floor, each in an element of its own."""
    row = cell.judged.row
    return (
        f'<{tag} class="value">{text.value(cell.newest.value, row.unit)}</{tag}>{between}'
        f'<{tag} class="floor">{text.floor(cell.judged.verdict.floor, row)}</{tag}>'
    )


def draw_figure(cell, machine):
    """A table row: what, value, noise, the line of its history."""
    one = cell.judged
    return (
        f'<tr class="{text.css(one.verdict.state)}"><td class="name">'
        f'<a href="{escape(text.graph(one.row, machine))}">{escape(cell.label)}</a></td>'
        f"{written(cell, 'td')}<td>{chart.spark(one.row.points, moved(one))}</td></tr>"
    )


def state_of(mine):
    """The state of a method's line, and how it is written."""
    counts = {state: sum(one.verdict.state == state for one in mine) for state in ORDER}
    state = next(state for state in ORDER if counts[state])
    told = [f"{n} {name}" for name, n in counts.items() if n and name != verdict.FINE]
    return state, ", ".join(told) or f"all {len(mine)} fine"


def line(judged, method, preset, commits, machine):
    """The line of a method on a preset, or nothing where no row of it should have a value."""
    mine, charts, figures = find(judged, method, preset)
    if not mine:
        return ""
    state, told = state_of(mine)
    small = "" if len(charts) > 1 else " small"
    form = FORMATS[method]
    table = "".join(draw_figure(cell, machine) for cell in figures)
    return (
        f'<article class="method {text.css(state)}{small}" data-method="{method}" '
        f'data-preset="{preset}"><header><h3>{method.replace("_", "_<wbr>")}</h3>'
        f'<p class="soft">{form.name}, {form.bytes_per_weight:g} bytes</p>'
        f'<p class="state">{told}</p></header>'
        + "".join(draw_chart(cell, commits, machine) for cell in charts)
        + (
            f'<table class="figures"><caption class="name">time over</caption>{table}</table>'
            if table
            else ""
        )
        + "</article>"
    )


def sections(judged, commits, machine):
    """All lines, preset by preset."""
    found = []
    for name, preset in PRESETS.items():
        body = "".join(line(judged, method, name, commits, machine) for method in METHODS)
        if body:
            found.append(
                f'<section><h2>{name} <span class="soft">{preset.experts} experts of '
                f"{preset.hidden} x {preset.intermediate}, {preset.tokens} tokens, top "
                f"{preset.top_k}</span></h2>{body}</section>"
            )
    return "".join(found)
