"""Python's C headers, where the system has none: from Debian's package into .venv, without root.

CMake finds them there by CMAKE_INCLUDE_PATH. A line in site-packages sets it in all that .venv's
Python starts: the build in place, pip, and asv's builds, which run in environments of their own and
are of old commits too. (Told of an interpreter, FindPython heeds neither Python_ROOT_DIR nor
VIRTUAL_ENV.)
"""

import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

SYSTEM = Path(sysconfig.get_path("include"))  # the base Python's, in a virtual environment too
PACKAGE = "libpython{}.{}-dev".format(*sys.version_info)
MISSING = "Python's C headers are missing: apt-get install python3-dev"
SET_PATH = (
    "import os, sys; "
    f'os.environ["CMAKE_INCLUDE_PATH"] = os.path.join(sys.prefix, "include", "{SYSTEM.name}")\n'
)


def present(venv):
    """Whether a build finds the headers: the system's, or those that were brought into .venv."""
    folders = (SYSTEM, venv / "include" / SYSTEM.name)
    return any((folder / "Python.h").exists() for folder in folders)


def obtainable():
    """Whether this is a Debian, or one of its kin."""
    return all(map(shutil.which, ("apt-get", "dpkg")))


def run(command, folder):
    """A command's error, or None where it worked."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    return (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]


def download(folder):
    """The package's path in the folder; SystemExit where it cannot be had."""
    error = run(["apt-get", "download", PACKAGE], folder)
    if error:  # the machine's lists of packages are missing or old, and root's to renew
        # Started by root, apt-get would change to a user who cannot write here.
        settings = [f"Dir::State={folder}", f"Dir::Cache={folder}", "APT::Sandbox::User=root"]
        apt = ["apt-get", *(f"-o{setting}" for setting in settings)]
        (folder / "lists" / "partial").mkdir(parents=True)
        error = run([*apt, "-oAcquire::Languages=none", "update"], folder)
        error = error or run([*apt, "download", PACKAGE], folder)
    if error:
        sys.exit(f"{MISSING}\napt-get could not download {PACKAGE} into .venv: {error}")
    return next(folder.glob("*.deb"))


def fetch(venv):
    """Bring the headers into .venv; SystemExit where they cannot be had."""
    with tempfile.TemporaryDirectory(dir=venv) as name:
        unpacked = Path(name) / "unpacked"
        error = run(["dpkg", "-x", download(Path(name)), unpacked], name)
        headers = unpacked / SYSTEM.relative_to("/")
        if error or not (headers / "Python.h").exists():
            sys.exit(f"{MISSING}\n{PACKAGE} does not bring {SYSTEM}: {error or 'other folders'}")
        # Debian's only includes the architecture's, by a path from the folder above.
        (pyconfig,) = headers.parent.glob(f"*/{SYSTEM.name}/pyconfig.h")
        shutil.copy(pyconfig, headers)
        packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(venv)}))
        (packages / "python_headers.pth").write_text(SET_PATH)
        (venv / "include").mkdir(exist_ok=True)
        # Last, for present(); it takes the place of a folder that venv may have left empty.
        headers.rename(venv / "include" / SYSTEM.name)
