"""Makes .venv and installs pinned requirements into it: `python3 -m tools.environment bench|dev`.

With them come the libraries of asv's own page (requirements/dashboard: npm packages, each pinned by
version and hash), into .venv/dashboard.

Runs with the system's Python and nothing but its standard library. What was installed is remembered
by the hash of what was asked for, in .venv/stamps: a second call does nothing, and a changed pin is
installed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools import files, python_headers

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMPS = VENV / "stamps"
PYTHON = VENV / "bin" / "python"
DASHBOARD = ROOT / "requirements" / "dashboard"
OLDEST_PYTHON = (3, 11)


def missing_tools():
    """One line for each missing tool: what it is, and the Debian package that brings it."""
    lines = []
    if sys.version_info < OLDEST_PYTHON:
        version = sys.version.split()[0]
        lines.append(f"python3 is {version}, wanted 3.11 or later: apt-get install python3")
    try:
        import ensurepip  # noqa: F401  (Debian ships venv without it until python3-venv is there)
        import venv  # noqa: F401
    except ImportError:
        lines.append("python3's venv module is missing: apt-get install python3-venv")
    if not python_headers.present(VENV) and not python_headers.obtainable():
        lines.append(python_headers.MISSING)
    for tool, package in ((os.environ.get("CXX", "g++"), "g++"), ("make", "make"), ("git", "git")):
        if not shutil.which(tool):
            lines.append(f"{tool} is missing: apt-get install {package}")
    return lines


def included_files(path):
    """A requirements file and those that it names with -r."""
    yield path
    for line in path.read_text().splitlines():
        if line.startswith("-r "):
            yield from included_files(path.parent / line[3:].strip())


def wanted(name):
    """The requirements file of that name, and the hash of all that it stands for."""
    path = ROOT / "requirements" / f"{name}.txt"
    digest = hashlib.sha256(sys.version.encode())
    for file in included_files(path):
        digest.update(file.read_bytes())
    return path, digest.hexdigest()


def works(python):
    """Whether the environment's Python starts: it links to the system's, which may have gone."""
    return python.exists() and subprocess.run([python, "-c", ""], check=False).returncode == 0


def write_stamp(name, text):
    """Whole or not at all: an interrupted set-up must be seen as not done."""
    files.write_text(STAMPS / name, text)


def read_stamp(name):
    """What was written last, or None."""
    stamp = STAMPS / name
    return stamp.read_text() if stamp.exists() else None


def make(name):
    """Brings .venv to where the named requirements are installed; does nothing where they are."""
    if not read_stamp("venv") or not works(PYTHON):
        print("Making .venv", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        STAMPS.mkdir()
        write_stamp("venv", "made")
    if not python_headers.present(VENV):
        print("Bringing Python's C headers into .venv", flush=True)
        python_headers.fetch(VENV)
    install(name)


def install(name):
    """Has pip install the named requirements, if they are not there."""
    path, digest = wanted(name)
    if read_stamp(name) != digest:
        print(f"Installing requirements/{name}.txt into .venv", flush=True)
        pip = [PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "-r", path]
        subprocess.run(pip, check=True)
        write_stamp(name, digest)


def fetch_dashboard():
    """Has npm fetch the libraries of asv's page, if they are not there.

    Measuring does without them, so a line is all that says that it failed; the next set-up tries
    again.
    """
    lock = (DASHBOARD / "package-lock.json").read_text()
    folder = VENV / "dashboard"
    if read_stamp("dashboard") == lock and (folder / "node_modules").is_dir():
        return
    try:
        npm = shutil.which("npm")
        if not npm:
            install("npm")
            npm = VENV / "bin" / "npm"
        shutil.copytree(DASHBOARD, folder, dirs_exist_ok=True)
        print("Fetching the dashboard's libraries into .venv", flush=True)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(command, cwd=folder, check=True)
    except subprocess.CalledProcessError as error:
        print(f"the dashboard's own copies of asv's libraries could not be fetched: {error}")
    else:
        write_stamp("dashboard", lock)


def main():
    """Set up; SystemExit with a line for each thing that is missing or failed."""
    if len(sys.argv) != 2 or not (ROOT / "requirements" / f"{sys.argv[1]}.txt").exists():
        sys.exit("usage: python3 -m tools.environment bench|dev")
    lines = missing_tools()
    if lines:
        sys.exit("\n".join(lines))
    try:
        make(sys.argv[1])
        fetch_dashboard()
    except subprocess.CalledProcessError as error:
        sys.exit(f"setting up .venv failed: {error}")
    except OSError as error:
        sys.exit(f"cannot write .venv: {error}")


if __name__ == "__main__":
    main()
