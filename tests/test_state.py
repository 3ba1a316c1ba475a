"""What a layer keeps between calls: adapters, saved forwards, and itself."""

import gc
import threading
import weakref

import pytest
import torch
from small_layer import (
    FORWARD_LIMIT,
    adapters,
    assert_gradients,
    assert_near,
    batch,
    loaded,
)

BF16, F32 = torch.bfloat16, torch.float32


# ---- adapters ----


def test_changes_of_the_adapters_in_place_count_at_once():
    small = loaded()
    small.forward()
    small.layer.backward(small.inputs.grad_output)
    for tensor in small.loras.values():
        tensor.mul_(-2)
    assert_near(small.forward(), small.reference().output, FORWARD_LIMIT)
    small.layer.update_lora_weights()
    assert_gradients(small.layer.backward(small.inputs.grad_output), small.reference())


@pytest.mark.parametrize("dtype", [BF16, F32])
def test_adapters_are_followed_to_new_memory(dtype):
    small = loaded()
    small.forward(save=False)
    fresh = adapters(seed=9, dtype=dtype)
    for name, tensor in small.loras.items():
        tensor.data = fresh[name]
    assert_near(small.forward(), small.reference().output, FORWARD_LIMIT)
    small.layer.update_lora_weights()
    assert_gradients(small.layer.backward(small.inputs.grad_output), small.reference())


def test_replaced_memory_is_not_handed_out_again_while_the_layer_reads_it():
    small = loaded()
    tensor = small.loras["gate_lora_a"]
    address = tensor.data_ptr()
    tensor.data = torch.zeros_like(tensor)
    others = [torch.empty_like(tensor) for _ in range(100)]
    assert address not in [other.data_ptr() for other in others]


def test_adapters_may_be_parameters():
    small = loaded()
    parameters = [torch.nn.Parameter(tensor) for tensor in small.loras.values()]
    small.layer.init_lora_weights(*parameters)
    output = small.forward()
    assert not output.requires_grad
    _, grad_loras = small.layer.backward(small.inputs.grad_output)
    for parameter, gradient in zip(parameters, grad_loras.values(), strict=True):
        parameter.grad = gradient
    torch.optim.SGD(parameters, lr=0.5).step()
    assert_near(small.forward(), small.reference().output, FORWARD_LIMIT)


# ---- the cache ----


def test_a_saved_forward_holds_a_slot_until_its_backward():
    small = loaded()
    for _ in range(3):
        small.forward(save=False)
    small.forward()
    with pytest.raises(RuntimeError, match=r"^Forward cache full.*backward.*max_cache_depth"):
        small.forward(batch(seed=1))
    assert_near(small.forward(save=False), small.reference().output, FORWARD_LIMIT)
    assert_gradients(small.layer.backward(small.inputs.grad_output), small.reference())
    small.forward()


def test_backward_takes_the_newest():
    small = loaded(max_cache_depth=3)
    batches = [batch(seed=seed, qlen=5 + seed) for seed in range(3)]
    for inputs in batches:
        small.forward(inputs)
    for inputs in reversed(batches):
        assert_gradients(small.layer.backward(inputs.grad_output), small.reference(inputs))


def test_tickets_are_taken_in_any_order():
    small = loaded(max_cache_depth=2)
    first, second = batch(seed=1), batch(seed=2)
    tickets = []
    for inputs in (first, second):
        arguments = inputs.hidden_states, inputs.expert_ids, inputs.weights
        tickets.append(small.layer._new_ticket(True))
        small.layer._forward_ticket(*arguments, tickets[-1])
    assert_gradients(
        small.layer._backward_ticket(tickets[0], first.grad_output, True), small.reference(first)
    )
    small.layer._release(tickets[1])
    with pytest.raises(RuntimeError):
        small.layer._backward_ticket(tickets[1], second.grad_output, True)
    small.forward()
    small.forward()


# ---- threads and life ----


def test_two_threads_share_a_layer():
    small = loaded(max_cache_depth=2)
    batches = [batch(seed=seed) for seed in range(2)]
    serial = []
    for inputs in batches:
        serial.append([small.forward(inputs), *small.layer.backward(inputs.grad_output)])
    together = threading.Barrier(2)
    faults = []

    def work(index):
        try:
            inputs = batches[index]
            for _ in range(20):
                together.wait(timeout=60)
                output = small.forward(inputs)
                together.wait(timeout=60)  # both are saved before either goes back
                grad_input, grad_loras = small.layer.backward(inputs.grad_output)
                assert torch.equal(output, serial[index][0])
                assert torch.equal(grad_input, serial[index][1])
                for name, gradient in grad_loras.items():
                    assert torch.equal(gradient, serial[index][2][name])
        except BaseException as fault:
            faults.append(fault)
            together.abort()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def in_a_thread(call):
    results = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join()
    return results[0]


def test_a_thread_takes_its_own_newest_and_anothers_only_without_one():
    small = loaded(max_cache_depth=2)
    mine, others = batch(seed=1), batch(seed=2)
    small.forward(mine)
    in_a_thread(lambda: small.forward(others))
    assert_gradients(small.layer.backward(mine.grad_output), small.reference(mine))
    assert_gradients(
        in_a_thread(lambda: small.layer.backward(others.grad_output)), small.reference(others)
    )


def test_layers_work_side_by_side():
    layers = [loaded(seed=seed, cpuinfer_threads=1 + seed) for seed in range(3)]
    for small in layers:
        small.forward()
    for small in layers:
        assert_gradients(small.layer.backward(small.inputs.grad_output), small.reference())


def test_closing_frees_weights_and_saved_forwards():
    small = loaded()
    small.forward()
    native = weakref.ref(small.layer._layer)
    small.layer.close()
    small.layer.close()
    gc.collect()
    assert native() is None


def test_the_adapters_live_as_long_as_the_layer_reads_them():
    small = loaded()
    expected = small.reference().output
    del small.loras
    gc.collect()
    assert_near(small.forward(), expected, FORWARD_LIMIT)
