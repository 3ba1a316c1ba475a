"""The layer touches nothing beside the tensors that it is given: around them lie pages that nobody
may touch, in a child process, which a touch ends."""

import ctypes
import mmap
import signal

import native_layer
import pytest
import torch
from child import in_child
from integer_model import FORMATS
from native_layer import Sizes, make_layer, make_problem, step, view
from test_layer_integers import fitted

from kt_kernel._native import ext

PAGE = mmap.PAGESIZE
PROT_NONE = 0
LIBC = ctypes.CDLL(None)
# No size is one of whole vectors, or of the pieces that tasks take; an expert has several blocks.
SIZES = Sizes(experts=2, hidden=71, inter=54, top_k=2, tokens=301, rank=5)

ends = pytest.mark.parametrize("at_end", [True, False], ids=["end", "start"])


def fenced(tensor, at_end):
    """A copy that ends where a page begins that may not be touched, or begins where one ends."""
    room = -(-tensor.nbytes // PAGE) * PAGE
    memory = mmap.mmap(-1, PAGE + room + PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for fence in (start, start + PAGE + room):
        assert LIBC.mprotect(ctypes.c_void_p(fence), PAGE, PROT_NONE) == 0
    offset = PAGE + (room - tensor.nbytes if at_end else 0)
    copy = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=offset)
    return copy.reshape(tensor.shape).copy_(tensor)


@ends
def test_a_fence_ends_who_touches_it(at_end):
    copy = fenced(torch.arange(5, dtype=torch.int8), at_end)
    beside = copy.data_ptr() + (5 if at_end else -1)
    assert in_child(lambda: ctypes.string_at(beside, 1)) == -signal.SIGSEGV
    assert in_child(lambda: ctypes.string_at(copy.data_ptr(), 5)) == 0


@ends
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("form", [None, *FORMATS], ids=str)
def test_forward_and_backward(isa, form, dtype, at_end, monkeypatch):
    options = {"format": form.name, "group_size": form.group or 128} if form else {}
    sizes = fitted(form, SIZES, parts=2) if form else SIZES
    problem = make_problem(sizes, dtype=dtype, lora_dtype=dtype)
    plain = native_layer.unwritten

    def body():
        def fence(tensor):
            return fenced(tensor, at_end)

        monkeypatch.setattr(native_layer, "unwritten", lambda *a: fence(plain(*a)))
        problem.experts = [tuple(map(fence, expert)) for expert in problem.experts]
        problem.loras = list(map(fence, problem.loras))
        for name in ("x", "ids", "weights", "grad_output"):
            setattr(problem, name, fence(getattr(problem, name)))
        skip = fence(torch.tensor([False] * sizes.experts))
        step(make_layer(problem, parts=2, threads=2, **options), problem, skip)

    assert in_child(body) == 0


@ends
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_codes(isa, form, at_end):
    (n,) = form.columns([300])  # rows of more than one task

    def body():
        weights = fenced(torch.randn(n, n), at_end)
        codes = fenced(torch.zeros(n, n, dtype=torch.int8), at_end)
        scales = fenced(torch.zeros((n, n // form.group) if form.group else (n,)), at_end)
        ext.quantize(form.name, view(weights), view(codes), view(scales))
        ext.dequantize(form.name, view(codes), view(scales), view(weights))
        sizes = {"num_experts": 1, "hidden_size": n, "intermediate_size": n, "top_k": 1}
        layer = ext.Layer(**sizes, format=form.name, group_size=form.group or 128)
        layer.load_codes(0, [view(codes)] * 3, [view(scales)] * 3)

    assert in_child(body) == 0
