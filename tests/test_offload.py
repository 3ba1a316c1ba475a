"""Packed weights in a file: the same bits, no name left behind, errors that say what is wrong."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kt_kernel import KTMoEWrapper
from kt_kernel.methods import METHODS
from kt_kernel.synthetic import SyntheticExperts, make_inputs, make_loras

EXPERTS, HIDDEN, INTER, TOP_K, RANK = 5, 96, 64, 2, 4
SIZES = EXPERTS, HIDDEN, INTER


def make(method, **options):
    """A layer without weights."""
    return KTMoEWrapper(
        0, EXPERTS, TOP_K, HIDDEN, INTER, method=method, lora_rank=RANK, group_size=32, **options
    )


def load(layer):
    """The same weights for all."""
    experts = SyntheticExperts(*SIZES, seed=3)
    layer.load_weights_from_tensors(*zip(*(experts[e] for e in range(EXPERTS)), strict=True))
    return layer


def mapped(folder):
    """The lines of this process's maps that are files of the folder."""
    lines = Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines()
    return [line for line in lines if f" {folder}/" in line]


def results(layer):
    """Of a training step."""
    layer.init_lora_weights(**make_loras(*SIZES, RANK, seed=4))
    batch = make_inputs(7, EXPERTS, TOP_K, HIDDEN, seed=5)
    output = layer.forward_sft(batch.hidden_states, batch.expert_ids, batch.weights)
    grad_input, grads = layer.backward(batch.grad_output)
    return [output, grad_input, *grads.values()]


@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if m.sft])
@pytest.mark.parametrize("parts", [1, 2])
def test_the_same_bits_as_in_memory(method, parts, tmp_path):
    in_memory = load(make(method, threadpool_count=parts))
    on_disk = load(make(method, threadpool_count=parts, offload_folder=tmp_path))
    assert len(mapped(tmp_path)) == parts
    assert all(map(torch.equal, results(in_memory), results(on_disk)))
    assert on_disk._layer.weight_bytes == in_memory._layer.weight_bytes


@pytest.mark.parametrize("name", [b"plain", b"not utf-8: \xff"])
def test_the_file_has_no_name_and_goes_with_the_layer(tmp_path, name):
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    layer = load(make("AMXINT8_SFT", offload_folder=str(folder)))
    assert list(folder.iterdir()) == []
    (line,) = mapped(tmp_path)
    assert line.endswith("(deleted)")
    layer.close()
    assert mapped(tmp_path) == []


def test_without_a_folder_there_is_no_file():
    layer = make("AMXINT8_SFT")
    assert layer.offload_folder == ""
    assert load(layer)._layer.loaded


@pytest.mark.parametrize(
    ("folder", "error", "said"),
    [
        (3, TypeError, "offload_folder: wanted a path or None, got int"),
        ("no/such/folder", ValueError, "offload_folder: wanted a folder that exists, got 'no/such"),
        (__file__, ValueError, "offload_folder: wanted a folder that exists"),
        ("a\0b", ValueError, "offload_folder: wanted a folder that exists"),
    ],
)
def test_what_is_no_folder(folder, error, said):
    with pytest.raises(error, match=said):
        make("AMXINT8_SFT", offload_folder=folder)


def test_a_folder_that_went_away_is_named_and_loading_can_be_tried_again(tmp_path):
    folder = tmp_path / os.fsdecode(b"not utf-8: \xff")
    folder.mkdir()
    layer = make("AMXINT8_SFT", offload_folder=folder)
    folder.rmdir()
    with pytest.raises(FileNotFoundError) as caught:
        load(layer)
    assert caught.value.filename == str(folder)
    folder.mkdir()
    assert load(layer)._layer.loaded


def test_a_relative_folder_is_that_of_the_constructor(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    layer = make("AMXINT8_SFT", offload_folder="folder")
    monkeypatch.chdir("/")
    assert layer.offload_folder == str(tmp_path / "folder")
    assert len(mapped(load(layer).offload_folder)) == 1


FULL = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_offload import load, make

layer = make("AMXBF16_SFT", offload_folder=sys.argv[1])
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, most))
try:
    load(layer)
except OSError as error:
    print(error.errno, error.filename)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
assert not layer._layer.loaded
assert load(layer)._layer.loaded
"""


def test_a_disk_without_room_is_an_error_and_no_crash(tmp_path):
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{errno.EFBIG} {tmp_path}\n"
    assert list(tmp_path.iterdir()) == []
