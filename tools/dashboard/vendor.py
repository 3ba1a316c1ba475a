"""asv's own page made whole: what it loads from the network is laid beside it.

Set-up fetches the packages (tools/environment.py). Here the tags of asv's page that name a remote
file are pointed at the same file of a package. A tag that no package answers is an error: asv has
changed, and the page would ask the network again.
"""

import re
import shutil
from pathlib import Path

from asv import util

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ROOT / ".venv" / "dashboard" / "node_modules"

# The file's name in asv's page -> the file of a package. Flot's package has no minified files.
FILES = {
    "jquery-3.3.1.min.js": "jquery/dist/jquery.min.js",
    "jquery.flot.min.js": "flot/jquery.flot.js",
    "jquery.flot.time.min.js": "flot/jquery.flot.time.js",
    "jquery.flot.selection.min.js": "flot/jquery.flot.selection.js",
    "jquery.flot.categories.min.js": "flot/jquery.flot.categories.js",
    "jquery.flot.orderBars.js": "flot-orderbars/js/jquery.flot.orderBars.js",
    "stupidtable.min.js": "stupid-table-plugin/stupidtable.min.js",
    "md5.min.js": "blueimp-md5/js/md5.min.js",
    "bootstrap.min.js": "bootstrap/dist/js/bootstrap.min.js",
    "bootstrap.min.css": "bootstrap/dist/css/bootstrap.min.css",
}
REMOTE_TAG = re.compile(r'<(?:script|link)\b[^>]*\b(?:src|href)="(https?://[^"]*/([^"/]+))"[^>]*>')
# They are about other hosts: the hash of a file of the CDN, and the page for where it fails.
FOREIGN = re.compile(r' (?:integrity|crossorigin|referrerpolicy|onerror)="[^"]*"')


def fetched():
    """Whether set-up has fetched the packages."""
    return PACKAGES.is_dir()


def localize(page, folder):
    """The page's HTML with local files, which are copied to folder/vendor."""
    (folder / "vendor").mkdir()

    def local(tag):
        url, name = tag[1], tag[2]
        if name not in FILES:
            raise util.UserError(f"asv's page asks for {url}, which no package of ours has")
        file = Path(FILES[name])
        shutil.copyfile(PACKAGES / file, folder / "vendor" / file.name)
        return FOREIGN.sub("", tag[0].replace(url, f"vendor/{file.name}"))

    return REMOTE_TAG.sub(local, page)
