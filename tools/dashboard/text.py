"""How the first page writes values, changes, commits and links."""

import datetime
from html import escape
from urllib.parse import quote

from asv import util

ASV_PAGE = "asv.html"


def value(number, unit):
    """A value as a person writes it."""
    if number is None:
        return "failed"
    if number != number:
        return "n/a"
    if unit == "seconds" or (unit == "bytes" and number >= 1000):
        return util.human_value(number, unit)
    if unit in ("x", "%"):
        return f"{number:.3g}\N{MULTIPLICATION SIGN}" if unit == "x" else f"{number:.4g}%"
    return f"{number:.4g} {'B' if unit == 'bytes' else unit}"


def change(fraction, row):
    """A change as changes.difference gives it."""
    if row.by_difference:
        return f"{fraction:+.2g} {row.unit}"
    percent = 100 * fraction
    return f"{percent:+.1f}%" if abs(percent) < 100 else f"{fraction + 1:.3g} times"


def floor(noise, row):
    """A noise floor."""
    if noise is None:
        return "noise not known"
    if noise == 0:
        return "exact"
    number = noise if row.by_difference else 100 * noise
    written = f"{number:.0f}" if number >= 10 else f"{number:.2g}"
    return f"\N{PLUS-MINUS SIGN}{written}{' ' + row.unit if row.by_difference else '%'}"


def called(row):
    """Its name as asv has it, without the module, and its parameters but for method and preset."""
    rest = [v.strip("'") for name, v in row.params if name not in ("method", "preset")]
    return ", ".join([f"{row.suite}.{row.metric}", *rest])


def graph(row, machine=None):
    """The address of its graph on asv's page; machine: its name, where there are several."""
    params = [(f"p-{name}", v) for name, v in row.params]
    params += [("machine", machine)] if machine else []
    query = "&".join(f"{quote(name)}={quote(v)}" for name, v in params)
    return f"{ASV_PAGE}#{row.benchmark}?{query}"


def day(milliseconds):
    """The day in UTC."""
    moment = datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%d")


def commit(found, url=""):
    """Hash and subject as HTML; url: what a hash is put behind for a page about it, or nothing."""
    name = f"<code>{found.hash[:8]}</code>"
    if url:
        name = f'<a href="{escape(url + found.hash)}">{name}</a>'
    return f"{name} {escape(found.subject)}"


def css(state):
    """A verdict's CSS class."""
    return state.replace(" ", "-")
