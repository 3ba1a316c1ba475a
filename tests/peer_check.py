"""What makes PyTorch's layer a peer: it computes what the reference computes."""

import torch

from benchmarks import inputs, relative_error
from kt_kernel.reference import compute_relative_error

LIMITS = {torch.bfloat16: 0.02, torch.float32: 1e-5}


def check_peer(peer_class, made, dtype):
    """Output and gradients of a case of three experts, the second of which gets no tokens."""
    made.batch.expert_ids[:] = torch.tensor([0, 2])
    peer = peer_class(made, dtype)
    output = peer.run()
    grads = torch.autograd.grad(output, [peer.x, *peer.lora], peer.grad_output)
    names = ["output", "grad_input", *(f"grad_{name}" for name in inputs.LORA_NAMES)]
    wanted = relative_error.reference(made)
    for name, value in zip(names, [output.detach(), *grads], strict=True):
        assert value.dtype == dtype
        assert compute_relative_error(value.float(), wanted[name]) < LIMITS[dtype], name
