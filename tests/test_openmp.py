"""A layer that works on PyTorch's threads: each test in a process of its own, since the number of
PyTorch's threads is the process's, and other tests set it to one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kt_kernel._native import ext

TESTS = Path(__file__).resolve().parent

pytestmark = pytest.mark.skipif(ext.cpu_count() < 2, reason="a machine of one core: no thread")

START = """
import os
import threading
import torch
from child import in_child
from native_layer import Sizes, forward, make_layer, make_problem, same_bits, step

from kt_kernel import KTMoEWrapper  # joins the threads
from kt_kernel._native import ext

def count():
    return len(os.listdir("/proc/self/task"))

def pytorch():
    return torch.ones(512, 512) @ torch.ones(512, 512)

problem = make_problem(Sizes(experts=8, hidden=300, inter=256, top_k=4, tokens=90, rank=16))
torch.set_num_threads(2)
"""


def run(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", START + code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_as_many_threads_as_pytorch_has_are_pytorchs():
    run("""
pytorch()
before = count()
layer = make_layer(problem, threads=2)
expected = step(layer, problem)
assert count() == before, "a thread of our own was started"
assert same_bits(step(make_layer(problem, threads=2, parts=2), problem),
                 step(make_layer(problem, threads=1, parts=2), problem))
torch.set_num_threads(1)  # now theirs are not as many
assert same_bits(step(layer, problem), expected)
assert count() == before + 1
""")


def test_every_thread_takes_tasks():
    run("""
import time
layer = make_layer(problem, threads=2)
pytorch()
time.sleep(0.2)  # until its thread sleeps
before = time.process_time() - time.thread_time()
end = time.monotonic() + 0.5
while time.monotonic() < end:
    step(layer, problem)
assert time.process_time() - time.thread_time() - before > 0.1, "the calling thread works alone"
""")


def test_between_calls_they_sleep():
    run("""
import time
layer = make_layer(problem, threads=2)
step(layer, problem)
time.sleep(0.1)  # they look for more work for some milliseconds
before = time.process_time()
time.sleep(0.3)
assert time.process_time() - before < 0.01
""")


def test_a_forked_child_works_without_them():
    run("""
pytorch()
layer = make_layer(problem, threads=2)
expected, _ = forward(layer, problem, save=False)

def body():
    torch.set_num_threads(2)  # in_child set one
    before = count()
    assert torch.equal(forward(layer, problem, save=False)[0], expected)
    assert count() == before + 1, "a thread of the child's own"

assert in_child(body) == 0
""")


def test_any_thread_may_call():
    run("""
layer = make_layer(problem, threads=2)
expected = step(layer, problem)
wrong = []

def call():
    for _ in range(20):
        pytorch()
        if not same_bits(step(make_layer(problem, threads=2), problem), expected):
            wrong.append(1)

threads = [threading.Thread(target=call) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong
""")


def test_without_pytorch_there_is_none_to_join():
    code = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("kt_kernel_ext", sys.argv[1])
ext = module_from_spec(spec)
spec.loader.exec_module(ext)
assert ext.share_openmp_threads() is False
assert ext.read_bandwidth(threads=2, mebibytes=1) > 0
"""
    subprocess.run([sys.executable, "-c", code, ext.__file__], check=True, timeout=60)
