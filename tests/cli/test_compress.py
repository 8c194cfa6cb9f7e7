"""``spikeloom compress``."""

import json

import torch
from safetensors.torch import load_file

from spikeloom import compress


def test_a_network_is_pruned_and_quantised_as_the_library_does_it(folder, spikeloom):
    options = ["--calibration", "x.pt", "--sparsity", 0.5, "--bits", 4, "-o", "out", "--json"]
    done = spikeloom("compress", "models:snn", *options)
    assert done.exit_code == 0, done.stderr
    pruned, quantised = json.loads(done.stdout)
    assert pruned["title"] == "Pruned by osbc" and quantised["title"] == "Quantised by osbc"
    import models

    torch.manual_seed(0)
    expected = models.snn().eval()
    stats = compress.calibrate(expected, torch.load("x.pt"))
    compress.prune(expected, stats, 0.5)
    compress.quantize(expected, stats, 4)
    found = load_file("out/model.safetensors")
    assert found.keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        assert torch.equal(found[name], value)


def test_the_result_is_weights_for_the_next_command(folder, spikeloom):
    spikeloom("compress", "models:snn", "--calibration", "x.pt", "--sparsity", 0.5, "-o", "out")
    options = ["--weights", "out/model.safetensors", "--sample", "x.pt", "-o", "net.nir"]
    assert spikeloom("export", "models:snn", *options).exit_code == 0


def test_kept_statistics_replace_the_calibration(folder, spikeloom):
    spikeloom("compress", "models:snn", "--calibration", "x.pt", "--bits", 4, "-o", "a")
    kept = ["--statistics", "a/statistics.safetensors"]
    assert spikeloom("compress", "models:snn", *kept, "--bits", 4, "-o", "b").exit_code == 0
    first, second = (load_file(f"{name}/model.safetensors") for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_pattern_removes_two_of_four(folder, spikeloom):
    (folder / "wide.py").write_text(
        "from torch import nn\nfrom spikeloom import SpikingLayer, neurons\n"
        "net = nn.Sequential(nn.Linear(8, 4), SpikingLayer(neurons.LIF()))\n"
    )
    torch.save(torch.rand(5, 3, 8).round(), "wide.pt")
    options = ["--calibration", "wide.pt", "--pattern", "2:4", "-o", "out"]
    assert spikeloom("compress", "wide:net", *options).exit_code == 0
    mask = load_file("out/model.safetensors")["0.weight_mask"]
    assert (mask.view(4, 2, 4).sum(-1) == 2).all()


def test_what_to_do_must_be_said(folder, spikeloom):
    for options, message in [
        (["--calibration", "x.pt"], "give --sparsity, --pattern or --bits"),
        (["--bits", 4], "give either --calibration or --statistics"),
        (["--bits", 9, "--calibration", "x.pt"], "bits: "),
    ]:
        done = spikeloom("compress", "models:snn", "-o", "out", *options)
        assert done.exit_code == 2 and message in done.stderr and not (folder / "out").exists()
