"""The native layer among threads, processes and other people's memory: the same bits from any
number of threads, no idle work, no growth."""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from child import in_child
from native_layer import (
    Sizes,
    backward,
    forward,
    make_layer,
    make_problem,
    same_bits,
    step,
    view,
)

from kt_kernel._native import ext

# Enough tasks in each phase for several threads.
BUSY = Sizes(experts=8, hidden=300, inter=256, top_k=4, tokens=90, rank=16)


def resident_bytes() -> int:
    ctypes.CDLL(None).malloc_trim(0)  # free pages that malloc keeps would hide growth
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("parts", [1, 2], ids=lambda n: f"parts{n}")
def test_any_number_of_threads_gives_the_same_bits(isa, parts):
    problem = make_problem(BUSY)
    layers = [make_layer(problem, parts=parts, threads=n) for n in (1, 2, 5)]
    expected = step(layers[0], problem)
    for _ in range(3):
        for layer in layers:
            assert same_bits(step(layer, problem), expected)
            assert layer.isa == isa


@pytest.mark.parametrize("threads", [2, 0], ids=["2", "each_core"])
def test_other_threads_share_the_work(threads):
    if threads == 0 and ext.cpu_count() == 1:
        pytest.skip("a machine of one core: no other thread")
    problem = make_problem(BUSY)
    layer = make_layer(problem, threads=threads)
    step(layer, problem)
    deadline = time.monotonic() + 60
    others = -(time.process_time() - time.thread_time())
    while others + time.process_time() - time.thread_time() < 0.02:
        step(layer, problem)
        assert time.monotonic() < deadline, "the calling thread works alone"


def in_threads(*bodies, seconds: float = 60.0) -> None:
    """Runs the bodies at once, in a thread each; raises what one of them raised."""
    faults = []

    def guarded(body):
        try:
            body()
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=guarded, args=(body,), daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), "a thread hangs"
    if faults:
        raise faults[0]


def test_two_python_threads_with_a_layer_each(isa):
    problems = [make_problem(BUSY, seed=seed) for seed in (1, 2)]
    expected = [step(make_layer(p, threads=1), p) for p in problems]

    def body(problem, wanted, threads):
        layer = make_layer(problem, threads=threads)
        for _ in range(4):
            assert same_bits(step(layer, problem), wanted)

    in_threads(lambda: body(problems[0], expected[0], 2), lambda: body(problems[1], expected[1], 3))


def test_two_python_threads_share_a_layer(isa):
    problems = [make_problem(BUSY, seed=seed) for seed in (1, 2)]
    problems[1].experts, problems[1].loras = problems[0].experts, problems[0].loras
    expected = [step(make_layer(p, threads=1), p) for p in problems]
    layer = make_layer(problems[0], threads=2, cache_depth=2)

    def body(problem, wanted):
        for _ in range(4):
            assert same_bits(backward(layer, problem, *forward(layer, problem)), wanted)

    in_threads(*(lambda i=i: body(problems[i], expected[i]) for i in (0, 1)))


def test_adapters_may_be_replaced_while_it_works(isa):
    problems = [make_problem(BUSY, lora_dtype=dtype) for dtype in (torch.bfloat16, torch.float32)]
    for tensor in problems[1].loras:
        tensor.mul_(2)
    expected = [forward(make_layer(p, threads=1), p, save=False)[0] for p in problems]
    layer = make_layer(problems[0], threads=2)
    done = threading.Event()

    def work():
        try:
            for _ in range(20):
                output, _ = forward(layer, problems[0], save=False)
                assert any(torch.equal(output, wanted) for wanted in expected)
        finally:
            done.set()

    def replace():
        while not done.is_set():
            for problem in problems:
                layer.set_lora([view(t) for t in problem.loras])

    in_threads(work, replace)


def test_a_layer_may_be_looked_at_while_it_works(isa):
    problem = make_problem(Sizes(tokens=40))
    layers = [make_layer(problem)]
    done = threading.Event()

    def work():
        try:
            for _ in range(20):  # each of one chunk after another
                layers.append(make_layer(problem, chunk_tokens=1, threads=1))
                forward(layers[-1], problem)
        finally:
            done.set()

    def look():
        while not done.is_set():
            layer = layers[-1]
            assert layer.saved_bytes < 1 << 30
            assert layer.cache_used <= 1
            assert layer.loaded or layer.weight_bytes >= 0

    in_threads(work, look)


def test_ids_that_change_while_they_are_read_cost_no_more_than_the_result():
    """A process of its own, which a write past a buffer's end would end."""
    code = """
import threading, torch
from native_layer import Sizes, forward, make_layer, make_problem
sizes = Sizes(experts=64, hidden=8, inter=8, top_k=8, tokens=4000, rank=1)
problem = make_problem(sizes)
layer, done = make_layer(problem), threading.Event()
one, other = torch.zeros_like(problem.ids), torch.full_like(problem.ids, 63)
def change():
    while not done.is_set():
        problem.ids.copy_(one)
        problem.ids.copy_(other)
thread = threading.Thread(target=change)
thread.start()
for _ in range(200):
    forward(layer, problem, save=False)
done.set()
thread.join()
print("survived")
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MALLOC_CHECK_": "3"},
    )
    assert (done.returncode, done.stdout) == (0, "survived\n"), done.stderr


def test_a_forked_child_works(isa):
    problem = make_problem(BUSY)
    layer = make_layer(problem, threads=2)
    expected = step(layer, problem)  # the parent's pool runs

    def body():
        fresh = make_layer(problem, threads=3)
        for each in (layer, fresh):
            assert same_bits(step(each, problem), expected)

    assert in_child(body) == 0
    assert same_bits(step(layer, problem), expected)


# Without PyTorch, so that no thread has ended yet: its stack would serve the next one.
FEW_THREADS_START = """
import resource, sys
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("kt_kernel_ext", sys.argv[1])
ext = module_from_spec(spec)
spec.loader.exec_module(ext)
ext.read_bandwidth(threads=1, mebibytes=1)
with open("/proc/self/statm") as file:
    size = int(file.read().split()[0]) * resource.getpagesize()
before = resource.getrlimit(resource.RLIMIT_AS)
# Room for every worker's buffers, 1.5 MB, but not for all stacks, 2 MB or more each.
resource.setrlimit(resource.RLIMIT_AS, (size + (14 << 20), before[1]))
try:
    ext.read_bandwidth(threads=8, mebibytes=1)
except RuntimeError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, before)
print(ext.read_bandwidth(threads=8, mebibytes=1) > 0)
"""


def test_a_thread_that_could_not_start_is_started_by_the_next_call():
    command = [sys.executable, "-c", FEW_THREADS_START, ext.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "Resource temporarily unavailable\nTrue\n", done


def test_a_child_forked_while_another_thread_calls_works():
    layer = make_layer(make_problem(Sizes()))
    enough = threading.Event()

    def look():
        while not enough.is_set():
            assert layer.cache_used == 0

    def fork():
        try:
            for _ in range(30):
                child = os.fork()
                if child == 0:
                    signal.alarm(10)  # ends a child that hangs
                    os._exit(layer.cache_used)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        finally:
            enough.set()

    in_threads(look, fork)


@pytest.mark.parametrize("threads", [ext.cpu_count(), 5], ids=["each_core", "5"])
def test_idle_workers_use_no_processor(isa, threads):
    problem = make_problem(BUSY)
    step(make_layer(problem, threads=threads), problem)
    time.sleep(0.05)  # they look for more work for some microseconds
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.01


def test_steps_do_not_grow_memory(isa):
    # Narrow, so that a step is quick, but of many tokens: the lists of who goes where take 48 KB.
    problem = make_problem(Sizes(hidden=16, inter=16, top_k=8, tokens=500, rank=1))
    layer = make_layer(problem, threads=2, parts=2, chunk_tokens=300)

    def steps(count):
        for _ in range(count):
            step(layer, problem)
            forward(layer, problem)
            layer.release()

    steps(20)
    before = resident_bytes()
    steps(100)
    assert resident_bytes() - before < 1 << 20


def test_a_layer_gives_its_memory_back():
    def use():
        problem = make_problem(Sizes(experts=2, hidden=1024, inter=1024, tokens=64))
        step(make_layer(problem), problem)

    use()
    before = resident_bytes()
    for _ in range(4):  # of 12 MB each
        use()
    assert resident_bytes() - before < 4 << 20


def test_buffers_are_used_again():
    problem = make_problem(Sizes(tokens=600, hidden=150, inter=128))
    layer = make_layer(problem)
    output, ticket = forward(layer, problem)
    results = backward(layer, problem, output, ticket)
    inputs = [view(t) for t in (problem.x, problem.ids, problem.weights, output)]
    gradients = [view(t) for t in (problem.grad_output, results.grad_input)]
    grad_loras = [view(t) for t in results.grad_loras]

    def faults(steps):  # pages touched for the first time
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(steps):
            ticket = layer.forward(*inputs, True, None)
            layer.backward(ticket, *gradients, grad_loras, view(results.grad_weights))
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults(5)
    assert faults(20) < 20 * 20  # a buffer made anew is hundreds


@pytest.mark.parametrize("parts", [1, 2, 4], ids=lambda n: f"parts{n}")
@pytest.mark.parametrize(
    ("hidden", "inter", "experts"),
    # The last is 14 huge pages and a piece of one, which must not take a whole one.
    [(7168, 2048, 3), (2048, 1408, 16), (2048, 768, 32), (512, 384, 25)],
)
def test_weights_are_held_once(hidden, inter, experts, parts):
    gate, down = torch.ones(inter, hidden).bfloat16(), torch.ones(hidden, inter).bfloat16()
    layer = ext.Layer(
        num_experts=experts, hidden_size=hidden, intermediate_size=inter, top_k=2, parts=parts
    )
    before = resident_bytes()
    for slot in range(experts):
        layer.load_expert(slot, view(gate), view(gate), view(down))
    format_bytes = experts * 3 * 2 * hidden * inter
    assert 1 <= layer.weight_bytes / format_bytes <= 1.02
    assert resident_bytes() - before <= 1.02 * format_bytes
