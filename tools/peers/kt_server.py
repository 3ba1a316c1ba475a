"""kt-kernel behind a socket: times one pass whenever it is asked. `kt_server.py FD ROOT`.

It runs in the Python of kt-kernel's own environment, since both packages import as kt_kernel, and
makes the same inputs as benchmarks/inputs.py does for ours. Its C++ classes are called directly,
without the buffers that its Python wrapper copies to. The time of a training class is that of its
own profiler: its calling thread spins beside its workers, which on a machine whose every core has a
worker would be charged to it otherwise.
"""

import os
import sys
import threading
import time
from importlib.metadata import version
from multiprocessing.connection import Connection

os.environ["KT_SFT_PROFILE"] = "1"  # read when the extension is loaded

import torch

# Appended: kt_kernel must be the one of this environment, and not the folder beside benchmarks.
sys.path.append(sys.argv[2])

import kt_kernel
from benchmarks.inputs import LORA_NAMES, make_batch, make_lora, make_weights, stacked
from benchmarks.presets import Preset

# The class that trains, then those that only infer; the first that its build has is taken.
CLASSES = {
    "AMXBF16_SFT": ("AMXBF16_SFT_MOE", "AMXBF16_MOE", "AVX2BF16_MOE"),
    "AMXINT8_SFT": ("AMXInt8_SFT_MOE", "AMXInt8_MOE"),
    "AMXINT4_SFT": ("AMXInt4_SFT_MOE", "AMXInt4_MOE"),
    "AMXINT4_KGroup_SFT": ("AMXInt4_KGroup_SFT_MOE", "AMXInt4_KGroup_MOE", "AVX2RawInt4_MOE"),
}
GROUP, GROUP_RANK = 32, 8  # all that its class with groups takes
native = kt_kernel.kt_kernel_ext


def group_codes(weights):
    """Codes (two to a byte) and bf16 scales in groups of GROUP, by the largest of each group."""
    codes = torch.empty(*weights.shape[:2], weights.shape[2] // 2, dtype=torch.uint8)
    scales = torch.empty(*weights.shape[:2], weights.shape[2] // GROUP, dtype=torch.bfloat16)
    for expert, matrix in enumerate(weights):
        groups = matrix.float().unflatten(1, (-1, GROUP))
        scale = (groups.abs().amax(-1) / 7).clamp_min(1e-8).bfloat16()
        code = (groups / scale.float()[..., None]).round().clamp(-8, 7).to(torch.uint8) + 8
        pairs = (code & 15).flatten(1).unflatten(1, (-1, 2))
        codes[expert], scales[expert] = pairs[..., 0] | pairs[..., 1] << 4, scale
    return codes, scales


class Layer:
    """A layer of kt-kernel's: trains where its build for this CPU has the class, or only infers."""

    def __init__(self, method, shape, threads):
        names = CLASSES[method]
        found = [name for name in names if hasattr(native.moe, name)]
        if not found:
            raise LookupError(f"its build {kt_kernel.__cpu_variant__} has no {' or '.join(names)}")
        self.name = found[0]
        self.trains = self.name == names[0]
        self.grouped = "KGroup" in method
        if self.grouped:
            shape = Preset(**{**vars(shape), "lora_rank": GROUP_RANK})
        self.shape = shape
        self.batch = make_batch(shape)
        self.lora = make_lora(shape)
        pool = native.WorkerPoolConfig()
        pool.subpool_count, pool.subpool_numa_map, pool.subpool_thread_count = 1, [0], [threads]
        self.infer = native.CPUInfer(pool)
        self.experts = torch.arange(shape.experts)
        self.qlen = torch.tensor([shape.tokens], dtype=torch.int32)
        self.output = torch.zeros_like(self.batch.hidden_states)
        self.moe = getattr(native.moe, self.name)(self.config())
        self.load()
        # The calling thread, and it alone, spins while it waits: it must not keep a worker from its
        # core. That of an inference class has the clock.
        if self.trains:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)

    def about(self):
        """What a reader must know beside its times."""
        rank = self.shape.lora_rank if self.trains else 0
        return {"class": self.name, "trains": self.trains, "rank": rank}

    def config(self):
        """Sizes, and where weights and LoRA tensors lie."""
        shape = self.shape
        sizes = (shape.experts, shape.top_k, shape.hidden, shape.intermediate)
        config = native.moe.MOESFTConfig(*sizes) if self.trains else native.moe.MOEConfig(*sizes)
        config.max_len = max(128, -(-shape.tokens // 32) * 32)
        config.physical_to_logical_map = self.experts.data_ptr()
        config.pool = self.infer.backend_
        if self.trains:
            config.max_cache_depth, config.layer_idx = 1, 0
            config.lora_rank, config.lora_alpha = shape.lora_rank, shape.lora_alpha
            config.full_weight_grad = config.share_backward_bb = config.share_cache_pool = False
            config.authoritative_optimizer_grads = self.name == "AMXInt8_SFT_MOE"
            for name, tensor in zip(LORA_NAMES, self.lora, strict=True):
                setattr(config, name, tensor.data_ptr())
        self.source, whole = [], stacked(make_weights(shape))
        for name, weights in zip(("gate", "up", "down"), whole, strict=True):
            if self.grouped:
                codes, scales = group_codes(weights)
                setattr(config, f"{name}_scale", scales.data_ptr())
                self.source += [codes, scales]
                weights = codes
            else:
                self.source.append(weights)
            setattr(config, f"{name}_proj", weights.data_ptr())
        if self.grouped:
            quant = config.quant_config
            quant.bits, quant.group_size, quant.zero_point = 4, GROUP, False
        return config

    def load(self):
        """Pack the weights, and let their source go."""
        if self.trains:
            self.moe.load_weights()
        else:
            self.infer.submit(self.moe.load_weights_task(self.experts.data_ptr()))
            self.infer.sync()
        self.source = None
        if self.trains:
            gradients = [self.output, *self.lora]
            self.gradients = [torch.zeros_like(tensor) for tensor in gradients]
            self.routing_gradient = torch.zeros_like(self.batch.weights)

    def forward(self, save=False):
        """Into self.output."""
        batch = self.batch
        pointers = (
            self.qlen.data_ptr(),
            self.shape.top_k,
            batch.expert_ids.data_ptr(),
            batch.weights.data_ptr(),
            batch.hidden_states.data_ptr(),
            self.output.data_ptr(),
        )
        if self.trains:
            self.moe.forward_sft(*pointers, save)
        else:
            self.infer.submit(self.moe.forward_task(*pointers))
            self.infer.sync()

    def backward(self):
        """Of the last forward that saved."""
        gradients = [tensor.data_ptr() for tensor in self.gradients]
        routing = self.routing_gradient.data_ptr()
        self.moe.backward(self.batch.grad_output.data_ptr(), *gradients, routing, 0, 0, 0)

    def seconds(self, passes):
        """Of one forward, or of a forward that saves and its backward."""
        if self.trains:
            self.moe.reset_profile_stats()
        start = time.perf_counter()
        self.forward(save=passes != "forward")
        if passes != "forward":
            self.backward()
        if not self.trains:
            return time.perf_counter() - start
        ends = (".forward.total.total_ns", ".backward.total.total_ns")
        stats = dict(self.moe.get_profile_stats(True)).items()
        return 1e-9 * sum(v for k, v in stats if k.endswith(ends) and not k.startswith("wrapper"))


def main():
    """Answer until the other end is closed: about, load, time or output, and what each takes."""
    connection, layer = Connection(int(sys.argv[1])), None
    # Real-time workers that spin would keep the thread that calls them from every core.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    while True:
        try:
            kind, *arguments = connection.recv()
        except EOFError:
            return
        try:
            if kind == "about":
                reply = {"version": version("kt-kernel"), "build": kt_kernel.__cpu_variant__}
            elif kind == "load":
                layer = None  # before the next is made: both may not fit in memory
                method, shape, threads = arguments
                layer = Layer(method, Preset(**shape), threads)
                reply = layer.about()
            elif kind == "time":
                reply = layer.seconds(*arguments)
            else:
                reply = layer.output.view(torch.int16).numpy().tobytes()
        except (LookupError, RuntimeError, TypeError) as error:
            reply = error
        connection.send(reply)


if __name__ == "__main__":
    main()
