"""Runs under callgrind: `counted.py EXTENSION ANSWERS LAYERS`, the standard library alone.

Writes a JSON object to ANSWERS: for each row {"count": n}, where callgrind's n-th file has it,
{"lacking": why} or {"failed": why}.
"""

import ctypes
import json
import os
import random
import struct
import sys
from importlib.util import module_from_spec, spec_from_file_location

ISA = "avx2"
TOP_K, RANK = 1, 16
RING = 4099  # normal numbers, which all tensors repeat: drawing is slow here
SIZES = {"bfloat16": 2, "float32": 4, "int64": 8}


class Layer:
    """A layer with its inputs. Steps are called by a row's metric."""

    def __init__(self, ext, made, plan):
        self.ext, self.made = ext, made
        experts, hidden, inter, tokens = plan["shape"]
        self.layer = ext.Layer(
            num_experts=experts,
            hidden_size=hidden,
            intermediate_size=inter,
            top_k=TOP_K,
            format=plan["format"],
            group_size=plan["group"],
            lora_rank=RANK,
            lora_scaling=2.0,
            threads=1,
        )
        wide, narrow, back = [inter, hidden], [inter, RANK], [hidden, inter]
        self.weights = [[self.normal(s) for s in (wide, wide, back)] for _ in range(experts)]
        pairs = [[RANK, hidden], narrow, [RANK, hidden], narrow, [RANK, inter], [hidden, RANK]]
        self.lora = [self.normal([experts, *shape]) for shape in pairs]
        self.gradients = [self.normal([experts, *shape]) for shape in pairs]
        self.x, self.output, self.grad_output, self.grad_input = (
            self.normal([tokens, hidden]) for _ in range(4)
        )
        ids = struct.pack(f"<{tokens}q", *(token % experts for token in range(tokens)))
        self.ids = self.tensor("int64", [tokens, TOP_K], ids)
        weights = struct.pack(f"<{tokens}f", *[0.75] * tokens)
        self.routing = self.tensor("float32", [tokens, TOP_K], weights)

    def normal(self, shape):
        """A bfloat16 tensor, small enough for sums to stay small."""
        return self.tensor("bfloat16", shape, self.made.ring)

    def tensor(self, dtype, shape, data):
        """The bytes, repeated to fill the shape."""
        size = SIZES[dtype]
        for length in shape:
            size *= length
        buffer = ctypes.create_string_buffer((data * (size // len(data) + 1))[:size], size)
        self.made.kept.append(buffer)
        return self.ext.Tensor("tensor", ctypes.addressof(buffer), dtype, shape)

    def count_load(self):
        """Rounding and packing of all experts, and the adapters."""
        for slot, weights in enumerate(self.weights):
            self.layer.load_expert(slot, *weights)
        self.layer.set_lora(self.lora)

    def count_forward(self):
        """As inference calls it."""
        self.layer.forward(self.x, self.ids, self.routing, self.output, False, None)

    def count_training_step(self):
        """Forward, backward, new adapters."""
        ticket = self.layer.forward(self.x, self.ids, self.routing, self.output, True, None)
        self.layer.backward(ticket, self.grad_output, self.grad_input, self.gradients, None)
        self.layer.set_lora(self.lora)


class Made:
    """What all layers share: numbers, and buffers that must live."""

    def __init__(self):
        draw = random.Random(1)
        numbers = (draw.gauss(0, 1 / 16) for _ in range(RING))
        self.ring = b"".join(struct.pack("<f", number)[2:] for number in numbers)
        self.kept = []


class Marks:
    """Counts the calls of getppid: callgrind writes a file before each."""

    def __init__(self):
        self.calls = 0

    def between(self, step):
        """Run the step between two calls; the number of the file that has its count."""
        os.getppid()
        try:
            step()
        finally:
            os.getppid()
            self.calls += 2
        return self.calls


def count(ext, made, marks, plan):
    """Answers of one layer's rows. Loading comes first, as the others need it."""
    rows = plan["rows"]
    if plan["format"] not in ext.formats():
        return {row: {"lacking": "not in this commit"} for row in rows.values()}
    answers = {}
    try:
        layer = Layer(ext, made, plan)
        for metric in ("count_load", "count_forward", "count_training_step"):
            number = marks.between(getattr(layer, metric))
            if metric in rows:
                answers[rows[metric]] = {"count": number}
        if layer.layer.isa != ISA:  # known after the first call
            raise RuntimeError(f"the layer ran on {layer.layer.isa!r}, wanted {ISA!r}")
    except Exception as error:
        missed = {"failed": f"{type(error).__name__}: {error}"}
        answers = dict.fromkeys(rows.values(), missed)
    return answers


def main():
    """Load the extension alone, without its package; count all rows."""
    path, written, layers = sys.argv[1:]
    spec = spec_from_file_location("kt_kernel_ext", path)
    ext = module_from_spec(spec)
    spec.loader.exec_module(ext)
    ext.force_isa(ISA)
    made, marks, answers = Made(), Marks(), {}
    for plan in json.loads(layers):
        answers |= count(ext, made, marks, plan)
        made.kept.clear()
    with open(written, "w", encoding="utf-8") as file:
        json.dump(answers, file)


if __name__ == "__main__":
    main()
