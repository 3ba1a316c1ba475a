"""Expert weights from tensors, lists and generators."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import weakref

import pytest
import torch
from small_layer import (
    EXPERTS,
    FORWARD_LIMIT,
    HIDDEN,
    INTER,
    assert_near,
    batch,
    loaded,
    stacked,
    wrapper,
)

from kt_kernel.synthetic import SyntheticExperts


def test_a_slot_computes_with_the_mapped_weights():
    order = [3, 0, 4, 1, 2]
    weights = stacked()
    small = loaded()
    mapped = wrapper()
    mapped.load_weights_from_tensors(*weights, torch.tensor(order))
    mapped.init_lora_weights(*small.loras.values())
    small.layer = mapped
    small.experts = [small.experts[source] for source in order]
    assert_near(small.forward(), small.reference().output, FORWARD_LIMIT)


def one_by_one(weights):
    return [(matrix for matrix in weight) for weight in weights]


def as_lists(weights):
    return [list(weight) for weight in weights]


def row_strided(weights):
    """As halves of a wider tensor, each row followed by what is not the layer's."""
    return [torch.cat([weight, -weight], dim=2)[:, :, : weight.shape[2]] for weight in weights]


def transposed(weights):
    return [weight.mT.contiguous().mT for weight in weights]


@pytest.mark.parametrize("way", [one_by_one, as_lists, row_strided, transposed])
@pytest.mark.parametrize("order", [None, torch.tensor([1, 2, 3, 4, 0])])
def test_every_way_of_loading_gives_the_same_layer(way, order):
    outputs = []
    for weights in (stacked(), way(stacked())):
        layer = wrapper("BF16")
        layer.load_weights_from_tensors(*weights, physical_to_logical_map_cpu=order)
        inputs = batch()
        outputs.append(layer.forward(inputs.hidden_states, inputs.expert_ids, inputs.weights))
    torch.testing.assert_close(*outputs, rtol=0, atol=0)


def test_loading_holds_one_expert_at_a_time():
    alive = weakref.WeakSet()
    most = 0

    def draw(part):
        nonlocal most
        experts = SyntheticExperts(EXPERTS, HIDDEN, INTER)
        for expert in range(EXPERTS):
            matrix = experts[expert][part].clone()
            alive.add(matrix)
            most = max(most, len(alive))
            yield matrix
            del matrix

    wrapper().load_weights_from_tensors(draw(0), draw(1), draw(2))
    assert most == 3


def test_after_a_fault_while_loading_the_layer_can_be_loaded_again():
    def breaks_off(weight):
        yield weight[0]
        raise OSError("the disk is gone")

    gate, up, down = stacked()
    small = loaded()
    layer = wrapper()
    layer.init_lora_weights(*small.loras.values())
    with pytest.raises(OSError, match="the disk is gone"):
        layer.load_weights_from_tensors(breaks_off(gate), up, down)
    assert not layer._weights_loaded
    layer.load_weights_from_tensors(gate, up, down)
    small.layer = layer
    assert_near(small.forward(), small.reference().output, FORWARD_LIMIT)


LOAD = """
import sys, torch, kt_kernel.loading
from kt_kernel import KTMoEWrapper
kt_kernel.loading._SECONDS_BEFORE_PROGRESS = float(sys.argv[1])
layer = KTMoEWrapper(7, 2, 1, 4, 4, method="BF16")
layer.load_weights_from_tensors(*torch.ones(3, 2, 4, 4))
"""


@pytest.mark.parametrize(("terminal", "patience"), [(True, 0), (True, 60), (False, 0)])
def test_progress_is_shown_for_long_loads_on_a_terminal(terminal, patience):
    reader, writer = pty.openpty() if terminal else os.pipe()
    if terminal:  # one without columns shows nothing
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-c", LOAD, str(patience)]
    subprocess.run(command, stderr=writer, check=True, timeout=120)
    os.write(writer, b"end")
    shown = b""
    while not shown.endswith(b"end"):
        shown += os.read(reader, 10_000)
    os.close(writer)
    os.close(reader)
    assert (b"layer 7: loading experts" in shown) == (terminal and patience == 0)


def test_the_default_device_does_not_matter():
    """Models are often built under torch.device("meta") and filled later."""
    with torch.device("meta"):
        layer = wrapper(num_gpu_experts=2)
    small = loaded(num_gpu_experts=2)
    layer.load_weights_from_tensors(*stacked())
    layer.init_lora_weights(*small.loras.values())
    inputs = small.inputs
    with torch.device("meta"):
        output = layer.forward_sft(inputs.hidden_states, inputs.expert_ids, inputs.weights)
        gradients = layer.backward(inputs.grad_output, routing_weights_grad=True)
    assert torch.equal(output, small.forward())
    for ours, theirs in zip(
        gradients, small.layer.backward(inputs.grad_output, routing_weights_grad=True), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
