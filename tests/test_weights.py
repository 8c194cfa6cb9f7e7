"""Files of weights: what errors say of them, and which of them a checkpoint is made of."""

import json
import resource
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from spikeloom.compress import Statistics
from spikeloom.convert.checkpoint import load_weights
from spikeloom.stored import on_meta, store
from spikeloom.weights import INDEX, places_in, save_tensors


@contextmanager
def room(size):
    """No file can be larger: what a full disk does, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def checkpoint(folder):
    """Two files and their index."""
    files = {"0.weight": "a.safetensors", "1.weight": "b.safetensors"}
    for key, name in files.items():
        save_file({key: torch.ones(3, 3)}, folder / name)
    (folder / INDEX).write_text(json.dumps({"weight_map": files}))
    return files


def network():
    return nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))


@pytest.mark.parametrize("kind", ["tensors", "statistics"])
def test_a_full_disk_names_the_file_and_leaves_the_old_one(kind, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")
    with room(100), pytest.raises(OSError, match=r"File too large.*a\.safetensors") as error:
        if kind == "tensors":
            save_tensors(path, {"a": torch.zeros(1000)})
        else:
            Statistics({}, {"0": "x" * 1000}).save(path)
    assert error.value.errno == 27
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


BAD = {
    "cut": (lambda f: (f / "b.safetensors").write_bytes(b"cut"), r"b\.safetensors is no whole"),
    "missing": (lambda f: (f / "b.safetensors").unlink(), r"b\.safetensors is missing, which"),
    "not json": (lambda f: (f / INDEX).write_text("{"), r"index\.json is no index of weights"),
    "list": (lambda f: (f / INDEX).write_text("[]"), r"index\.json is no index of weights"),
    "no map": (lambda f: (f / INDEX).write_text("{}"), r"index\.json is no index of weights"),
    "no names": (
        lambda f: (f / INDEX).write_text('{"weight_map": {"0.weight": 1}}'),
        r"index\.json is no index of weights",
    ),
    "lies": (
        lambda f: save_file({"2.weight": torch.ones(1)}, f / "b.safetensors"),
        r"b\.safetensors holds no 1\.weight, though",
    ),
    "twice": (
        lambda f: save_file(
            {"0.weight": torch.ones(1), "1.weight": torch.ones(1)}, f / "b.safetensors"
        ),
        r"b\.safetensors holds 0\.weight, which .* names in a\.safetensors",
    ),
    "two checkpoints": (
        lambda f: save_file({"0.weight": torch.ones(1)}, f / "model.safetensors"),
        r"holds model\.safetensors and .*, which does not name it; remove the older",
    ),
}


@pytest.mark.parametrize("damage", BAD)
def test_a_damaged_checkpoint_names_the_file(damage, tmp_path):
    checkpoint(tmp_path)
    spoil, message = BAD[damage]
    spoil(tmp_path)
    with pytest.raises(ValueError, match=rf"^source: .*{message}"):
        places_in(tmp_path)
    with pytest.raises(ValueError, match=rf"^folder: .*{message}"):
        load_weights(network(), tmp_path)


def test_a_single_file_that_is_cut_is_named(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs")
    with pytest.raises(ValueError, match=r"source: .*model\.safetensors is no whole safetensors"):
        places_in(tmp_path)


def test_only_what_the_index_names_is_loaded(tmp_path):
    checkpoint(tmp_path)
    save_file({"0.weight": torch.zeros(3, 3)}, tmp_path / "model-zz.safetensors")
    model = network()
    load_weights(model, tmp_path)
    assert all((value == 1).all() for value in model.parameters())


def test_a_weight_of_another_shape_is_named_with_its_file(tmp_path):
    checkpoint(tmp_path)
    save_file({"1.weight": torch.ones(3, 4)}, tmp_path / "b.safetensors")
    message = r"b\.safetensors holds 1\.weight of shape \(3, 4\), .* the model has \(3, 3\)"
    with pytest.raises(ValueError, match=rf"folder: .*{message}"):
        load_weights(network(), tmp_path)
    with on_meta():
        empty = network()
    with pytest.raises(ValueError, match=rf"source: .*{message}"):
        store(empty, places_in(tmp_path))
