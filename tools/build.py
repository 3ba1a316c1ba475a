"""Builds the extension in place and installs the package for editing, if a source changed."""

import hashlib
import subprocess
import sys

from tools import environment

ROOT = environment.ROOT
SOURCES = ["CMakeLists.txt", "setup.py", "pyproject.toml", "kt_kernel/_version.py", "csrc"]


def digest():
    """Hash of the names and contents of all that the extension is built from."""
    total = hashlib.sha256()
    for source in SOURCES:
        top = ROOT / source
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file():
                total.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return total.hexdigest()


def built():
    """Whether an extension lies in the tree, of whatever sources."""
    return any((ROOT / "kt_kernel").glob("kt_kernel_ext*.so"))


def main():
    """Build, or do nothing; SystemExit where building fails."""
    wanted = digest()
    if built() and environment.read_stamp("extension") == wanted:
        return
    print("Building the extension in place", flush=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-v"]
    command = [*pip, "--no-build-isolation", "--no-deps", "-e", "."]
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        sys.exit("building the extension failed")
    environment.write_stamp("extension", wanted)


if __name__ == "__main__":
    main()
