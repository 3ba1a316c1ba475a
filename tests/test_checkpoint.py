"""Weights from safetensors files: every naming and folder layout, and every way to be broken."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_layer import EXPERTS, HIDDEN, INTER, batch, loaded, stacked, wrapper

NAMES = {
    "deepseek": "model.layers.{layer}.mlp.experts.{expert}.{role}_proj.weight",
    "nested": "model.language_model.layers.{layer}.mlp.experts.{expert}.{role}_proj.weight",
    "mixtral": "model.layers.{layer}.block_sparse_moe.experts.{expert}.{role}.weight",
}
ROLES = {
    "deepseek": ("gate", "up", "down"),
    "nested": ("gate", "up", "down"),
    "mixtral": ("w1", "w3", "w2"),
}


def tensors(layer=3, style="deepseek", seed=0, dtype=torch.bfloat16):
    """All tensors of one layer by name, and some that are no experts."""
    named = {
        f"model.layers.{layer}.mlp.gate.weight": torch.zeros(EXPERTS, HIDDEN),
        f"model.layers.{layer}.mlp.shared_experts.gate_proj.weight": torch.zeros(INTER, HIDDEN),
    }
    for role, weight in zip(ROLES[style], stacked(seed, dtype), strict=True):
        for expert in range(EXPERTS):
            name = NAMES[style].format(layer=layer, expert=expert, role=role)
            named[name] = weight[expert].clone()
    return named


def shards(named, folder, index):
    """Three files that each hold parts of several experts, and an index if wanted."""
    files = {}
    for number, name in enumerate(sorted(named)):
        files.setdefault(f"model-{number % 3 + 1:05}-of-00003.safetensors", {})[name] = named[name]
    for file, part in files.items():
        save_file(part, folder / file)
    if index:
        weight_map = {name: file for file, part in files.items() for name in part}
        text = json.dumps({"metadata": {}, "weight_map": weight_map})
        (folder / "model.safetensors.index.json").write_text(text)


def output_of(path, layer_idx=3, order=None):
    layer = wrapper("BF16", layer_idx=layer_idx, weight_path=path)
    layer.load_weights(order)
    assert layer._weights_loaded
    inputs = batch()
    return layer.forward(inputs.hidden_states, inputs.expert_ids, inputs.weights)


def expected(seed=0, order=None):
    layer = wrapper("BF16")
    layer.load_weights_from_tensors(*stacked(seed), order)
    inputs = batch()
    return layer.forward(inputs.hidden_states, inputs.expert_ids, inputs.weights)


@pytest.mark.parametrize("style", NAMES)
def test_one_file(tmp_path, style):
    save_file(tensors(style=style), tmp_path / "any.safetensors")
    assert torch.equal(output_of(tmp_path / "any.safetensors"), expected())


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("as_text", [True, False])
def test_a_folder_of_shards(tmp_path, index, as_text):
    shards(tensors(), tmp_path, index)
    assert torch.equal(output_of(str(tmp_path) if as_text else tmp_path), expected())


def test_the_layer_asked_for_among_others(tmp_path):
    named = {**tensors(layer=3, seed=3), **tensors(layer=13, seed=13), **tensors(layer=31, seed=31)}
    shards(named, tmp_path, index=True)
    for layer in (3, 13, 31):
        assert torch.equal(output_of(tmp_path, layer), expected(seed=layer))


def test_a_file_in_float32(tmp_path):
    save_file(tensors(dtype=torch.float32), tmp_path / "model.safetensors")
    small = loaded("BF16", weight_dtype=torch.float32)
    assert torch.equal(output_of(tmp_path), small.forward())


def test_the_map_applies(tmp_path):
    order = torch.tensor([3, 0, 4, 1, 2])
    shards(tensors(), tmp_path, index=True)
    assert torch.equal(output_of(tmp_path, order=order), expected(order=order))


def test_the_file_is_mapped_and_not_read(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    save_file(tensors(), file)
    mapped = []

    def watch(self, slot, *views):
        mapped.append(str(file) in Path("/proc/self/maps").read_text())
        return original(self, slot, *views)

    layer = wrapper("BF16", layer_idx=3, weight_path=file)
    original = type(layer._layer).load_expert
    monkeypatch.setattr(type(layer._layer), "load_expert", watch)
    layer.load_weights()
    assert mapped == [True] * EXPERTS
    assert str(file) not in Path("/proc/self/maps").read_text()  # and let go afterwards


# ---- broken ones ----


def without(*names):
    return lambda named: [named.pop(f"model.layers.3.mlp.experts.{name}.weight") for name in names]


def replaced(name, change):
    def apply(named):
        full = f"model.layers.3.mlp.experts.{name}.weight"
        named[full] = change(named[full]).contiguous()

    return apply


def surplus(named):
    name = f"model.layers.3.mlp.experts.{EXPERTS}.up_proj.weight"
    named[name] = torch.zeros(INTER, HIDDEN, dtype=torch.bfloat16)


def doubled(named):
    named["other.layers.3.mlp.experts.2.gate_proj.weight"] = torch.zeros(INTER, HIDDEN)


FAULTS = [
    (without("2.up_proj"), ValueError, r"layer 3 lacks up_proj of expert 2 \(1 of 15"),
    (without("0.down_proj", "4.up_proj"), ValueError, "lacks down_proj of expert 0 .2 of 15"),
    (surplus, ValueError, f"layer 3 has {EXPERTS + 1} experts, num_experts is {EXPERTS}"),
    (doubled, ValueError, "both .*other.layers.3.* are gate_proj of expert 2"),
    (replaced("1.gate_proj", lambda w: w.mT), ValueError, r"1.gate_proj.*\[70, 36\].*\[36, 70\]"),
    (replaced("4.down_proj", lambda w: w[1:]), ValueError, "4.down_proj.* has shape"),
    (replaced("0.up_proj", lambda w: w.to(torch.float8_e4m3fn)), TypeError, "F8_E4M3.*BF16 or F32"),
    (replaced("3.up_proj", lambda w: w.half()), TypeError, "3.up_proj.* has dtype F16"),
    (lambda named: named.clear(), ValueError, "no experts of layer 3; layers with experts: none"),
]


@pytest.mark.parametrize(("change", "error", "message"), FAULTS)
@pytest.mark.parametrize("index", [True, False])
def test_what_is_wrong_with_the_weights_is_said(tmp_path, index, change, error, message):
    named = tensors()
    change(named)
    named["lm_head.weight"] = torch.zeros(2)
    shards(named, tmp_path, index)
    layer = wrapper("BF16", layer_idx=3, weight_path=tmp_path)
    with pytest.raises(error, match=rf"(?s)^weight_path: .*{message}"):
        layer.load_weights()
    assert not layer._weights_loaded
    layer.load_weights_from_tensors(*stacked())  # nothing of the broken file is in the way


def test_a_layer_that_the_files_do_not_have(tmp_path):
    shards({**tensors(layer=3), **tensors(layer=4)}, tmp_path, index=True)
    with pytest.raises(ValueError, match="no experts of layer 5; layers with experts: 3, 4"):
        output_of(tmp_path, layer_idx=5)


def test_no_path():
    with pytest.raises(ValueError, match=r"weight_path: empty.*load_weights_from_tensors"):
        output_of("")
    with pytest.raises(TypeError, match="weight_path: wanted a path, got 7"):
        output_of(7)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"weight_path: there is no .*absent"):
        output_of(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"weight_path: no \*.safetensors in folder"):
        output_of(tmp_path)


def test_a_shard_is_missing(tmp_path):
    shards(tensors(), tmp_path, index=True)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00003.*the index names it"):
        output_of(tmp_path)


def test_the_index_names_what_no_file_has(tmp_path):
    named = tensors()
    shards(named, tmp_path, index=True)
    save_file({"x": torch.zeros(1)}, tmp_path / "model-00002-of-00003.safetensors")
    with pytest.raises(ValueError, match=r"model-00002.* lacks model.layers.3.mlp.experts"):
        output_of(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', '{"metadata": {}}'])
def test_a_damaged_index(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=r"weight_path: .*index.json is no"):
        output_of(tmp_path)


@pytest.mark.parametrize("keep", [0, 7, 100, -100])
def test_a_file_that_was_cut_off(tmp_path, keep):
    file = tmp_path / "model.safetensors"
    save_file(tensors(), file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"weight_path: .*model.safetensors is no readable"):
        output_of(tmp_path)
