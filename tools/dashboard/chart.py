"""Inline SVG: a row over its history, with the lines that it is held against."""

from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 200, 100
LEFT, RIGHT, TOP, BOTTOM = 4, 6, 8, 10  # of the frame around the points
FAR = 2.2  # a line this many times above everything else is drawn at the top edge, not to scale


@dataclass(frozen=True)
class Line:
    """A level that the chart is held against."""

    value: float
    name: str
    kind: str  # the CSS class: limit or target


def series(points, x_of, y_of):
    """One polyline for each run of commits that have a value."""
    runs, current = [], []
    for place, point in enumerate(points):
        if point.is_number:
            current.append(f"{x_of(place):.1f},{y_of(point.value):.1f}")
        elif current:
            runs.append(current)
            current = []
    runs += [current] if current else []
    return "".join(f'<polyline class="series" points="{" ".join(run)}"/>' for run in runs)


def dots(points, titles, states, x_of, y_of):
    """A dot for each value, which says what it is when pointed at."""
    return "".join(
        f'<circle class="dot {states.get(place, "")}" cx="{x_of(place):.1f}" '
        f'cy="{y_of(point.value):.1f}" r="{3.5 if place in states else 1.8}">'
        f"<title>{escape(titles[place])}</title></circle>"
        for place, point in enumerate(points)
        if point.is_number
    )


def missing(points, titles, x_of):
    """A mark on the base line for each commit without a value."""
    return "".join(
        f'<text class="missing" x="{x_of(place):.1f}" y="{HEIGHT - 1}">\N{MULTIPLICATION SIGN}'
        f"<title>{escape(titles[place])}</title></text>"
        for place, point in enumerate(points)
        if not point.is_number
    )


def level(line, y, far):
    """A line across the chart that says its name when pointed at; far above it is dotted."""
    return (
        f'<line class="{line.kind}{" far" if far else ""}" x1="{LEFT}" x2="{WIDTH - RIGHT}" '
        f'y1="{y:.1f}" y2="{y:.1f}"><title>{escape(line.name)}</title></line>'
    )


def draw(points, titles, states, lines, label):
    """The chart of a row's points from 0 upwards.

    titles: what each commit's dot says. states: place -> CSS class of the dots that moved. lines:
    the Lines to draw. label: what the chart shows, for those who cannot see it.
    """
    values = [point.value for point in points if point.is_number]
    shown = max([*values, *(line.value for line in lines if line.kind == "target")], default=1)
    near = [line for line in lines if line.value <= FAR * shown]
    top = 1.12 * max([shown, *(line.value for line in near)]) or 1
    step = (WIDTH - LEFT - RIGHT) / max(1, len(points) - 1)

    def x_of(place):
        return LEFT + step * place if len(points) > 1 else WIDTH / 2

    def y_of(value):
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - max(0, value) / top)

    body = [f'<line class="base" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_of(0)}" y2="{y_of(0)}"/>']
    for line in lines:
        far = line not in near
        body.append(level(line, 2 if far else y_of(line.value), far))
    body += [
        series(points, x_of, y_of),
        dots(points, titles, states, x_of, y_of),
        missing(points, titles, x_of),
    ]
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{"".join(body)}</svg>'
    )


def spark(points, states):
    """A small line without axes."""
    values = [point.value for point in points if point.is_number]
    if not values:
        return ""
    low, high = min(values), max(values)
    width, height, pad = 48, 18, 3
    step = (width - 2 * pad) / max(1, len(points) - 1)

    def x_of(place):
        return pad + step * place if len(points) > 1 else width / 2

    def y_of(value):
        # At least a tenth of the value fills the height, or noise would look like mountains.
        span = max(high - low, abs(high) / 10) or 1
        return height - pad - (height - 2 * pad) * (value - low) / span

    last = max(place for place, point in enumerate(points) if point.is_number)
    end = (
        f'<circle class="dot {states.get(last, "")}" cx="{x_of(last):.1f}" '
        f'cy="{y_of(points[last].value):.1f}" r="2.2"/>'
    )
    return (
        f'<svg class="spark" viewBox="0 0 {width} {height}" aria-hidden="true">'
        f"{series(points, x_of, y_of)}{end}</svg>"
    )
