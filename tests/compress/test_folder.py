"""A checkpoint is compressed block by block: what the whole network becomes, in less memory."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from spikeloom import SpikingLayer, compress, neurons
from spikeloom.files import whole_file
from spikeloom.stored import on_meta
from spikeloom.weights import INDEX


def network(layers=3, width=8):
    torch.manual_seed(0)
    parts = []
    for _ in range(layers):
        parts += [nn.Linear(width, width), SpikingLayer(neurons.LIF(tau=2.0, v_threshold=0.25))]
        with torch.no_grad():
            parts[-2].weight.mul_(4.0)  # or the last ones would be silent
    return nn.Sequential(*parts, nn.Linear(width, 3)).eval()


def empty(**settings):
    with on_meta():
        return network(**settings)


def batches(width=8, count=2):
    generator = torch.Generator().manual_seed(1)
    return [(torch.rand(5, 4 + n, width, generator=generator) > 0.5).float() for n in range(count)]


def write(model, folder, in_one=False):
    """The checkpoint of a model, in a file for each layer."""
    folder.mkdir()
    state = model.state_dict()
    if in_one:
        save_file(state, folder / "model.safetensors")
        return
    files = {key: f"model-{key.split('.')[0]}.safetensors" for key in state}
    for name in set(files.values()):
        part = {key: value for key, value in state.items() if files[key] == name}
        save_file(part, folder / name)
    (folder / INDEX).write_text(json.dumps({"weight_map": files}))


def read(folder):
    state = {}
    for name in set(json.loads((folder / INDEX).read_text())["weight_map"].values()):
        state |= load_file(folder / name)
    return state


def rows(report):
    """Without the seconds and the megabytes."""
    return [list(row[:-2]) for row in report.rows]


@pytest.mark.parametrize("in_one", [False, True])
@pytest.mark.parametrize("blocks", [None, [["0", "2"], ["4", "6"]]])
def test_a_folder_becomes_what_the_whole_network_becomes(tmp_path, blocks, in_one):
    model, data = network(), batches()
    write(model, tmp_path / "float", in_one)
    pruned, quantised = compress.osbc_folder(
        tmp_path / "float", tmp_path / "small", empty(), data, sparsity=0.5, bits=4, blocks=blocks
    )
    stats = compress.calibrate(model, data)
    expected = compress.prune(model, stats, 0.5, allocation="uniform")
    also = compress.quantize(model, stats, 4)
    found = network()
    compress.load_compressed(found, read(tmp_path / "small"))
    state = model.state_dict()
    assert found.state_dict().keys() == state.keys() and "0.weight_codes" in state
    assert all(torch.equal(value, state[name]) for name, value in found.state_dict().items())
    assert [row[:5] for row in rows(pruned)] == [row[:5] for row in rows(expected)]
    assert [row[0] for row in quantised.rows] == [row[0] for row in also.rows]


def test_only_some_layers_are_compressed(tmp_path):
    model = network()
    write(model, tmp_path / "float")
    compress.osbc_folder(
        tmp_path / "float", tmp_path / "small", empty(), batches(), sparsity={"2": 0.75},
        blocks=[["2"]],
    )  # fmt: skip
    state = read(tmp_path / "small")
    assert torch.equal(state["0.weight"], model[0].weight)
    assert int((state["2.weight"] == 0).sum()) == 48
    assert set(state) == {*model.state_dict(), "2.weight_mask"}


class Interrupted(list):
    """Batches that fail when they are read for the third time."""

    def __iter__(self):
        self.reads = getattr(self, "reads", 0) + 1
        if self.reads == self.fails_at:
            raise KeyboardInterrupt
        return super().__iter__()


def test_what_was_interrupted_goes_on_at_the_block_where_it_stopped(tmp_path):
    write(network(), tmp_path / "float")
    whole = tmp_path / "whole"
    expected = compress.osbc_folder(tmp_path / "float", whole, empty(), batches(), bits=3)
    data = Interrupted(batches())
    # One reading asks whether it is an iterator, and each block reads once.
    data.fails_at = 4
    with pytest.raises(KeyboardInterrupt):
        compress.osbc_folder(tmp_path / "float", tmp_path / "small", empty(), data, bits=3)
    written = sorted(path.name for path in (tmp_path / "small").iterdir())
    assert written == [f"block-0000{n}-of-00004.safetensors" for n in (1, 2)]
    before = {name: (tmp_path / "small" / name).stat().st_mtime_ns for name in written}
    data.reads, data.fails_at = 0, None
    found = compress.osbc_folder(tmp_path / "float", tmp_path / "small", empty(), data, bits=3)
    assert data.reads == 3
    assert all((tmp_path / "small" / n).stat().st_mtime_ns == at for n, at in before.items())
    assert rows(found[0]) == rows(expected[0])
    state = read(whole)
    assert all(torch.equal(value, state[name]) for name, value in read(tmp_path / "small").items())


def test_blocks_of_other_settings_are_refused(tmp_path):
    write(network(), tmp_path / "float")
    folders = tmp_path / "float", tmp_path / "small"
    compress.osbc_folder(*folders, empty(), batches(), bits=3)
    with pytest.raises(ValueError, match=r"block-00001-of-00004.*'bits': 3.*give an empty folder"):
        compress.osbc_folder(*folders, empty(), batches(), bits=4)


def test_blocks_of_another_partition_are_refused(tmp_path):
    write(network(), tmp_path / "float")
    folders = tmp_path / "float", tmp_path / "small"
    compress.osbc_folder(*folders, empty(), batches(), sparsity=0.9)
    before = read(folders[1])
    with pytest.raises(ValueError, match=r"target: .*small holds block-00001-of-00004.* remove"):
        compress.osbc_folder(
            *folders, empty(), batches(), sparsity=0.5, blocks=[["0", "2"], ["4", "6"]]
        )
    # As many blocks, of which the first is the same.
    data = Interrupted(batches())
    data.fails_at = 3
    with pytest.raises(ValueError, match=r"block-00002-of-00004.*'layers': \['2'\]"):
        compress.osbc_folder(
            *folders, empty(), data, sparsity=0.9, blocks=[["0"], ["4"], ["2"], ["6"]]
        )
    assert all(torch.equal(value, before[name]) for name, value in read(folders[1]).items())


def test_unknown_files_of_weights_are_refused(tmp_path):
    write(network(), tmp_path / "float")
    folders = tmp_path / "float", tmp_path / "small"
    folders[1].mkdir()
    (folders[1] / "notes.txt").write_text("hello")
    # Left by a process that was killed while it wrote; no index names it.
    (folders[1] / ".block-00001-of-00004-0123.safetensors").write_bytes(b"half")
    compress.osbc_folder(*folders, empty(), batches(), sparsity=0.5)
    save_file({"0.weight": torch.zeros(8, 8)}, folders[1] / "zz.safetensors")
    with pytest.raises(ValueError, match=r"target: .*small holds zz\.safetensors, .* remove"):
        compress.osbc_folder(*folders, empty(), batches(), sparsity=0.5)


def test_blocks_of_another_source_are_refused(tmp_path):
    write(network(), tmp_path / "float")
    other = network()
    with torch.no_grad():
        other[0].bias[0] += 1.0  # the blocks behind it see other inputs
    write(other, tmp_path / "other")
    write(network(), tmp_path / "again", in_one=True)
    small = tmp_path / "small"
    compress.osbc_folder(tmp_path / "float", small, empty(), batches(), sparsity=0.5)
    with pytest.raises(ValueError, match=r"target: .*block-00001.* of other weights than .*other"):
        compress.osbc_folder(tmp_path / "other", small, empty(), batches(), sparsity=0.5)
    # The same weights in other files are the same source.
    for path in small.glob("other-*"):
        path.unlink()
    data = Interrupted(batches())
    data.fails_at = 2
    compress.osbc_folder(tmp_path / "again", small, empty(), data, sparsity=0.5)
    assert read(small).keys() >= network().state_dict().keys()


def test_bad_input_is_named(tmp_path):
    model = network()
    write(model, tmp_path / "float")
    folders = tmp_path / "float", tmp_path / "small"
    for error, message, settings in (
        (ValueError, "sparsity: and bits are both None", {}),
        (ValueError, "method: must be 'osbc' or 'plain'", {"bits": 4, "method": "rtn"}),
        (ValueError, "blocks: '1' is not a stored", {"bits": 4, "blocks": [["1"]]}),
        (ValueError, "blocks: '2' is named twice", {"bits": 4, "blocks": [["2"], ["2"]]}),
        (TypeError, "batches: .* got an iterator", {"bits": 4, "batches": iter(batches())}),
        (ValueError, "target: must be another folder", {"bits": 4, "target": tmp_path / "float"}),
        (ValueError, "source: .* holds neither", {"bits": 4, "source": tmp_path}),
    ):
        arguments = {"source": folders[0], "target": folders[1], "batches": batches(), **settings}
        with pytest.raises(error, match=message):
            compress.osbc_folder(model=empty(), **arguments)
    (tmp_path / "float" / "model-2.safetensors").unlink()
    with pytest.raises(ValueError, match=r"source: .*model-2.safetensors is missing, which"):
        compress.osbc_folder(*folders, empty(), batches(), bits=4)


def test_a_full_disk_leaves_whole_blocks_only(tmp_path, monkeypatch):
    from spikeloom.compress import folder

    write(network(), tmp_path / "float")
    save, saved = folder.save_tensors, []

    def save_on_full_disk(path, *others):
        saved.append(path)
        if len(saved) == 3:
            with whole_file(path) as temporary:
                temporary.write_bytes(b"half of it")
                raise OSError(28, "No space left on device", str(path))
        save(path, *others)

    monkeypatch.setattr(folder, "save_tensors", save_on_full_disk)
    folders = tmp_path / "float", tmp_path / "small"
    with pytest.raises(OSError, match=r"No space left on device.*block-00003"):
        compress.osbc_folder(*folders, empty(), batches(), bits=4)
    assert sorted(path.name for path in folders[1].iterdir()) == [
        f"block-0000{n}-of-00004.safetensors" for n in (1, 2)
    ]


LAYERS, WIDTH = 100, 384
COMPRESSING = """
import resource, sys, torch
from pathlib import Path
from spikeloom import compress
from tests.compress.test_folder import LAYERS, WIDTH, batches, empty, network, write

torch.set_num_threads(1)
folder, how, room = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
few = dict(layers=2, width=WIDTH)
# What a first compression imports and compiles is not the second one's memory.
write(network(**few), folder / f"few-{how}")
compress.osbc_folder(
    folder / f"few-{how}", folder / f"few-{how}-small", empty(**few), batches(WIDTH), bits=4
)
model = empty(layers=LAYERS, width=WIDTH)
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room,) * 2)
if how == "whole":
    model = network(layers=LAYERS, width=WIDTH)
    compress.quantize(model, compress.calibrate(model, batches(WIDTH)), 4)
else:
    compress.osbc_folder(
        folder / "float", folder / "small", model, batches(WIDTH, 1), bits=4,
        blocks=[["0"], ["100"]],
    )
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_a_checkpoint_larger_than_the_address_space_is_compressed(tmp_path):
    model = network(layers=LAYERS, width=WIDTH)
    size = sum(value.nbytes for value in model.parameters())
    write(model, tmp_path / "float")
    outcomes = {}
    for how in ("whole", "folder"):
        command = [sys.executable, "-W", "ignore", "-c", COMPRESSING, str(tmp_path), how]
        outcomes[how] = subprocess.run(
            [*command, str(size * 7 // 10)], capture_output=True, text=True, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        )  # fmt: skip
    assert outcomes["folder"].returncode == 0, outcomes["folder"].stderr[-2000:]
    assert "memory" in outcomes["whole"].stderr.lower() and outcomes["whole"].returncode
    state = read(tmp_path / "small")
    assert "100.weight_codes" in state and torch.equal(state["2.weight"], model[2].weight)
