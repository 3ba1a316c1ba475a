"""What follows `asv publish`: a folder that any static host serves, and that opens from disk.

index.html is our first page. asv's own page becomes asv.html, with what it loads beside it.
"""

import re
from pathlib import Path

from asv import util
from asv.benchmarks import Benchmarks
from asv.console import log

from tools import files, history
from tools.dashboard import page, text, vendor

HERE = Path(__file__).resolve().parent
VIEWPORT = '<meta name="viewport" content="width=device-width, initial-scale=1">'
OURS = '<script src="disk.js"></script><link rel="stylesheet" href="narrow.css">'
BACK = '<li><a href="index.html">First page</a></li>'


def complete(conf):
    """Complete conf.html_dir; util.UserError where a file cannot be written."""
    folder = Path(conf.html_dir)
    try:
        add_asv_page(folder)
        add_data_scripts(folder)
        add_first_pages(conf, folder)
    except OSError as error:
        raise util.UserError(f"cannot write {error.filename}: {error.strerror}") from error


def add_asv_page(folder):
    """Give asv's page its new name, without the network if set-up has fetched what it loads."""
    html = (folder / "index.html").read_text(encoding="utf-8")
    if vendor.fetched():
        html = vendor.localize(html, folder)
    else:
        log.warning(
            "asv's own page will load its scripts from the network: "
            "`python3 -m tools.environment bench` fetches them, then publish again"
        )
    html = once(html, "<head>", f"<head>{VIEWPORT}")
    html = once(html, "</head>", f"{OURS}</head>")
    html = once(html, '<ul class="nav navbar-nav navbar-left">', BACK, after=True)
    files.write_text(folder / text.ASV_PAGE, html)
    for name, source in (("disk.js", "disk.js"), ("narrow.css", "asv.css")):
        files.write_text(folder / name, (HERE / source).read_text(encoding="utf-8"))
    feed = (folder / "regressions.xml").read_text(encoding="utf-8")
    files.write_text(folder / "regressions.xml", feed.replace("index.html#", f"{text.ASV_PAGE}#"))


def once(html, mark, new, after=False):
    """Put new in the place of, or after, a mark that the page must have once."""
    if html.count(mark) != 1:
        raise util.UserError(f"asv's page has {html.count(mark)} times {mark!r}, wanted one")
    return html.replace(mark, mark + new if after else new)


def add_data_scripts(folder):
    """Beside each file of data a script that hands it over, for disk.js."""
    for path in sorted(folder.rglob("*.json")):
        data = path.read_text(encoding="utf-8")
        files.write_text(
            path.with_name(path.name + ".js"), f"document.currentScript.answer({data});\n"
        )


def add_first_pages(conf, folder):
    """index.html for the machine that measured last, and a page for each other."""
    histories = history.load(conf, Benchmarks.load(conf))
    names = [found.machine["machine"] for found in histories]
    pages = dict(zip(names, page_names(names), strict=True))
    shared = page.Site(conf.project, conf.show_commit_url, pages)
    if not histories:
        files.write_text(folder / "index.html", page.empty_page(shared))
    for found in histories:
        html = page.first_page(found, shared)
        files.write_text(folder / pages[found.machine["machine"]], html)


def page_names(machines):
    """A file name for each machine's page."""
    return [
        f"machine-{i}-{re.sub(r'[^A-Za-z0-9.-]', '_', name)}.html" if i else "index.html"
        for i, name in enumerate(machines)
    ]
