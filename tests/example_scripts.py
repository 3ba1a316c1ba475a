"""The scripts of examples/, run as a user runs them, on small sizes."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SFT, INFERENCE = "examples/test_moe_sft_wrapper.py", "examples/test_moe_amx.py"
SMALL = shlex.split(
    "--expert-num 8 --hidden-size 256 --intermediate-size 128 --top-k 4 --qlen 16 "
    "--iterations 2 --warmup 1 --repeat 3"
)


def run(*command, **environment):
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def run_with(patch, script, *options):
    """The script after `patch`, a piece of Python that breaks something."""
    program = (
        f"import runpy, sys; sys.path.insert(0, 'examples'); sys.argv = {[script, *options]!r}\n"
        f"{patch}\nrunpy.run_path({script!r}, run_name='__main__')"
    )
    return run("-c", program)
