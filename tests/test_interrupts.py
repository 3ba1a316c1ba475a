"""What a KeyboardInterrupt leaves behind that comes when a call of the extension is just done."""

import pytest
import torch
from small_layer import batch, loaded

from kt_kernel import KTMoELayer


class Interrupted:
    """A native layer, one of whose calls is interrupted before its result is anybody's."""

    def __init__(self, layer, call):
        self._layer, self._call = layer, call

    def __getattr__(self, name):
        method = getattr(self._layer, name)
        if name != self._call:
            return method

        def interrupted(*arguments):
            method(*arguments)
            raise KeyboardInterrupt

        return interrupted


def interrupt(wrapper, native_call, call):
    """Run the call; the native one that it makes is interrupted."""
    native = wrapper._layer
    wrapper._layer = Interrupted(native, native_call)
    with pytest.raises(KeyboardInterrupt):
        call()
    wrapper._layer = native
    return native


def test_a_saved_forward_holds_no_slot():
    small = loaded(max_cache_depth=1)
    native = interrupt(small.layer, "forward", small.forward)
    assert native.cache_used == 0
    with pytest.raises(RuntimeError, match="no forward is saved"):
        small.layer.backward(small.inputs.grad_output)
    small.forward()
    small.layer.backward(small.inputs.grad_output)


def test_a_saved_forward_of_a_module_holds_no_slot():
    small = loaded(max_cache_depth=1)
    module, inputs = KTMoELayer(small.layer), small.inputs
    arguments = inputs.hidden_states, inputs.expert_ids, inputs.weights
    native = interrupt(small.layer, "forward", lambda: module(*arguments))
    assert native.cache_used == 0
    module(*arguments).sum().backward()


def test_a_backward_leaves_no_spent_forward_on_the_list():
    small = loaded(max_cache_depth=2)
    other = batch(seed=1, qlen=4)
    small.forward(other)
    small.forward()
    native = interrupt(
        small.layer, "backward", lambda: small.layer.backward(small.inputs.grad_output)
    )
    assert native.cache_used == 1
    small.layer.backward(other.grad_output)
    assert native.cache_used == 0


def test_a_backward_that_was_refused_can_be_repeated():
    small = loaded(max_cache_depth=1)
    small.forward()
    with pytest.raises(ValueError, match="grad_output"):
        small.layer.backward(small.inputs.grad_output[1:])
    small.layer.backward(small.inputs.grad_output)


def test_new_adapters_are_alive_or_not_the_layers():
    small = loaded()
    before = small.forward(save=False)

    def replace():  # by what is nobody's afterwards
        others = [torch.randn_like(tensor) for tensor in small.loras.values()]
        small.layer.init_lora_weights(*others)

    interrupt(small.layer, "set_lora", replace)
    assert torch.equal(small.forward(save=False), before)
