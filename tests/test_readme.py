"""What README.md tells a reader to type runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kt_kernel.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


def test_its_python_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    command = [sys.executable, "-c", "\n".join(blocks)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True\n2.0\ntorch.bfloat16 torch.float32\n"


@pytest.mark.parametrize("method", METHODS)
def test_it_names_the_methods(method):
    assert f"`{method}`" in README


def test_its_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE))
    assert {"bench", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_links_and_paths_lead_somewhere(document):
    # "Write `file`" is a step of docs/adding.md.
    text = re.sub(r"Write `[^`]*`", "", document.read_text(encoding="utf-8"))
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    paths = re.findall(
        r"`((?:csrc|kt_kernel|docs|examples|scripts|tools|benchmarks|tests)/[\w./]+)`", text
    )
    missing = [link for link in links if not (document.parent / link).exists()]
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert missing == []
