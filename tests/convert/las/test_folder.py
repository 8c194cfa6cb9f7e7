"""A checkpoint is converted file by file: what LAS makes of the whole, in less memory."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from spikeloom import convert
from spikeloom.convert import LAS
from tests.convert.las.fitting import relative

os.environ.setdefault("HF_HUB_OFFLINE", "1")
t = pytest.importorskip("transformers")

IDS = torch.arange(48).view(2, 24)
BATCHES = [{"input_ids": IDS + n, "attention_mask": torch.ones_like(IDS)} for n in range(3)]
QUIET = LAS(progress=False)


def decoder(layers=2, width=64, **config):
    torch.manual_seed(0)
    return t.LlamaForCausalLM(
        t.LlamaConfig(
            vocab_size=64, hidden_size=width, intermediate_size=2 * width, num_attention_heads=4,
            num_key_value_heads=2, num_hidden_layers=layers, pad_token_id=0, **config)
    ).eval()  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard", ["60KB", "1GB"])
def test_a_folder_becomes_what_the_whole_model_becomes(shard, tied, tmp_path):
    model = decoder(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path / "float", max_shard_size=shard)
    report = convert.las_folder(tmp_path / "float", tmp_path / "spiking", BATCHES, QUIET)
    found, expected = convert.load_las(tmp_path / "spiking"), QUIET.apply(model, BATCHES)
    assert torch.equal(found(**BATCHES[0]).logits, expected(**BATCHES[0]).logits)
    assert report.rows == expected.report.rows
    weights = found.state_dict()
    assert all(torch.equal(weights[n], value) for n, value in expected.state_dict().items())
    made = found.generate(**BATCHES[0], max_new_tokens=3, do_sample=False)
    assert torch.equal(made, expected.generate(**BATCHES[0], max_new_tokens=3, do_sample=False))


@torch.no_grad()
def test_a_folder_in_bfloat16_stays_in_it(tmp_path):
    decoder().bfloat16().save_pretrained(tmp_path / "float")
    model = t.LlamaForCausalLM.from_pretrained(tmp_path / "float").eval()
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32  # read as it is computed
    convert.las_folder(tmp_path / "float", tmp_path / "spiking", BATCHES, QUIET)
    found = convert.load_las(tmp_path / "spiking")
    assert found.dtype == torch.bfloat16
    expected = QUIET.apply(model, BATCHES)(**BATCHES[0]).logits
    assert torch.equal(found(**BATCHES[0]).logits, expected)


def test_low_memory_shares_the_weights_and_leaves_the_model_as_it_is():
    model = decoder()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = QUIET.apply(model, BATCHES).state_dict()
    network = LAS(low_memory=True, progress=False).apply(model, BATCHES)
    assert all(torch.equal(v, expected[name]) for name, v in network.state_dict().items())
    own = {value.data_ptr() for value in model.parameters()}
    assert {value.data_ptr() for value in network.parameters()} == own
    assert all(torch.equal(v, before[name]) for name, v in model.state_dict().items())
    assert type(model.lm_head) is nn.Linear


def test_what_cannot_be_converted_file_by_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"source: .* holds neither model.safetensors nor"):
        convert.las_folder(tmp_path, tmp_path / "spiking", BATCHES)
    model = decoder(tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="target: must be another folder than source"):
        convert.las_folder(tmp_path, tmp_path, BATCHES)
    kept = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    model.save_pretrained(tmp_path, state_dict=kept)
    with pytest.raises(ValueError, match=r"source: holds no lm_head\.weight, which the model has"):
        convert.las_folder(tmp_path, tmp_path / "spiking", BATCHES)
    assert not (tmp_path / "spiking").exists()


def test_a_missing_file_is_named(tmp_path):
    decoder().save_pretrained(tmp_path, max_shard_size="60KB")
    convert.las_folder(tmp_path, tmp_path / "spiking", BATCHES, QUIET)
    (tmp_path / "spiking" / "model-las.safetensors").unlink()
    with pytest.raises(ValueError, match=r"folder: .*model-las.safetensors is missing, which"):
        convert.load_las(tmp_path / "spiking")
    lost = sorted(tmp_path.glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(ValueError, match=rf"source: .*{lost.name} is missing, which model.safet"):
        convert.las_folder(tmp_path, tmp_path / "spiking", BATCHES)


def test_a_full_disk_leaves_whole_files_and_no_converted_model(tmp_path, monkeypatch):
    from spikeloom.convert.las import folder

    decoder().save_pretrained(tmp_path / "float", max_shard_size="60KB")
    folders = tmp_path / "float", tmp_path / "spiking"
    convert.las_folder(*folders, BATCHES, QUIET)
    expected = convert.load_las(folders[1]).state_dict()
    copy, copied = folder.shutil.copyfile, []

    def copy_to_full_disk(path, to):
        copied.append(path)
        if len(copied) == 2:
            to.write_bytes(b"half of it")
            raise OSError(28, "No space left on device", str(path))
        copy(path, to)

    monkeypatch.setattr(folder.shutil, "copyfile", copy_to_full_disk)
    for fresh in (folders[1], tmp_path / "new"):
        copied.clear()
        with pytest.raises(OSError, match="No space left on device"):
            convert.las_folder(folders[0], fresh, BATCHES, QUIET)
        assert not (fresh / "config.json").exists()
        with pytest.raises((OSError, ValueError), match=r"config\.json"):
            convert.load_las(fresh)
        for path in fresh.glob("*.safetensors"):
            assert b"half of it" not in path.read_bytes()
        convert.las_folder(folders[0], fresh, BATCHES, QUIET)
        found = convert.load_las(fresh).state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_the_weights_of_another_model_in_the_target_are_refused(tmp_path):
    one, many, target = tmp_path / "one", tmp_path / "many", tmp_path / "spiking"
    decoder().save_pretrained(one)
    decoder().save_pretrained(many, max_shard_size="60KB")
    convert.las_folder(one, target, BATCHES, QUIET)
    before = {path: path.read_bytes() for path in target.iterdir()}
    # The file of the model before, beside the new ones.
    with pytest.raises(ValueError, match=r"target: .*spiking holds model\.safetensors, .* remove"):
        convert.las_folder(many, target, BATCHES, QUIET)
    # A file of the same name, but of a model that is not converted.
    decoder(layers=1).save_pretrained(tmp_path / "float")
    kept = (tmp_path / "float" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"target: .*float holds a model that is not converted"):
        convert.las_folder(one, tmp_path / "float", BATCHES, QUIET)
    assert (tmp_path / "float" / "model.safetensors").read_bytes() == kept
    assert {path: path.read_bytes() for path in target.iterdir()} == before


def test_ranges_of_an_earlier_conversion_are_not_loaded(tmp_path):
    model = decoder()
    model.save_pretrained(tmp_path / "float")
    convert.las_folder(tmp_path / "float", tmp_path / "spiking", BATCHES, QUIET)
    # Written over it by transformers, which leaves the index and the file of the ranges.
    QUIET.apply(model, BATCHES[:1]).save_pretrained(tmp_path / "spiking")
    with pytest.raises(
        ValueError, match=r"model\.safetensors holds .*, which .* names in model-las"
    ):
        convert.load_las(tmp_path / "spiking")


@pytest.mark.parametrize("broken", ["config.json", "generation_config.json"])
def test_a_disk_that_is_full_at_the_settings_leaves_no_part_of_them(broken, tmp_path, monkeypatch):
    decoder().save_pretrained(tmp_path / "float")
    replace = os.replace

    def replace_on_full_disk(path, to):
        if os.path.basename(to) == broken:
            raise OSError(28, "No space left on device", str(to))
        replace(path, to)

    monkeypatch.setattr(os, "replace", replace_on_full_disk)
    with pytest.raises(OSError, match=rf"No space left on device.*{broken}"):
        convert.las_folder(tmp_path / "float", tmp_path / "spiking", BATCHES, QUIET)
    assert not (tmp_path / "spiking" / "config.json").exists()
    assert not (tmp_path / "spiking" / broken).exists()
    monkeypatch.undo()
    convert.las_folder(tmp_path / "float", tmp_path / "spiking", BATCHES, QUIET)
    convert.load_las(tmp_path / "spiking")


def test_weights_without_values_are_named():
    with pytest.raises(ValueError, match=r"no values for 'weight', 'bias' .*; load them, or"):
        QUIET.apply(nn.Linear(2, 2, device="meta"), torch.zeros(4, 2))


# --- Within an address space ---------------------------------------------------------------------

LAYERS, WIDTH = 12, 1024
CONVERTING = """
import resource, sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM
from spikeloom import convert
from tests.convert.las.test_folder import BATCHES, QUIET

source, small, how, room = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
# What a first conversion imports and compiles is not the second one's memory.
convert.las_folder(small, small / "spiking", BATCHES, QUIET)
QUIET.apply(AutoModelForCausalLM.from_pretrained(small), BATCHES)
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room,) * 2)
if how == "whole":
    QUIET.apply(AutoModelForCausalLM.from_pretrained(source), BATCHES)
else:
    convert.las_folder(source, source / "spiking", BATCHES[:1], QUIET)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_a_checkpoint_larger_than_the_address_space_is_converted(tmp_path):
    model = decoder(LAYERS, WIDTH)
    size = sum(value.nbytes for value in model.parameters())
    model.save_pretrained(tmp_path / "large", max_shard_size="20MB")
    decoder().save_pretrained(tmp_path / "small")
    room = size * 6 // 10
    outcomes = {}
    for how in ("whole", "folder"):
        command = [sys.executable, "-c", CONVERTING, tmp_path / "large", tmp_path / "small", how]
        outcomes[how] = subprocess.run(
            [*map(str, command), str(room)], capture_output=True, text=True, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        )  # fmt: skip
    assert outcomes["folder"].returncode == 0, outcomes["folder"].stderr[-2000:]
    assert "memory" in outcomes["whole"].stderr.lower() and outcomes["whole"].returncode
    with torch.no_grad():
        found = convert.load_las(tmp_path / "large" / "spiking")(**BATCHES[0]).logits
        assert 0 < relative(found, model(**BATCHES[0]).logits) < 0.02
