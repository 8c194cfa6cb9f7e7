"""``spikeloom export``."""

import json

import torch

from spikeloom.export import read, run_nir


def test_the_file_fires_what_the_network_fires(folder, spikeloom):
    done = spikeloom("export", "models:snn", "--sample", "x.pt", "-o", "net.nir", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["mismatch"] == 0.0
    torch.manual_seed(0)
    import models

    x = torch.load("x.pt")
    expected = models.snn()(x)
    assert 0 < expected.mean() < 1
    assert torch.equal(run_nir(read("net.nir"), x), expected)


def test_saved_weights_are_loaded_before(folder, spikeloom):
    import models

    torch.manual_seed(7)
    net = models.snn()
    torch.save(net.state_dict(), "weights.pt")
    options = ["--weights", "weights.pt", "-o", "net.nir"]
    assert spikeloom("export", "models:snn", "--sample", "models:batch", *options).exit_code == 0
    assert (read("net.nir").nodes["0"].weight == net[0].weight.detach().numpy()).all()


def test_what_nir_cannot_express_is_listed_with_status_1(folder, spikeloom):
    done = spikeloom("export", "models:ann", "--sample", "x.pt", "-o", "net.nir")
    assert done.exit_code == 1 and "GELU" in done.stderr
    assert not (folder / "net.nir").exists()


def test_a_model_that_is_not_there_is_named(folder, spikeloom):
    for model, message in [
        ("nothing", "'nothing' is neither a folder nor of the form package.module:name"),
        ("absent:snn", "there is no module 'absent'"),
        ("models:cnn", "models has no 'cnn'"),
        ("models:broken", "must be a torch.nn.Module, got int"),
        (".", "holds no config.json"),
    ]:
        done = spikeloom("export", model, "--sample", "x.pt", "-o", "net.nir")
        assert done.exit_code == 2 and message in done.stderr


def test_a_sample_that_cannot_be_read_is_named(folder, spikeloom):
    for sample, message in [("x.csv", "cannot read 'x.csv'"), ("y.pt", "there is no file y.pt")]:
        done = spikeloom("export", "models:snn", "--sample", sample, "-o", "net.nir")
        assert done.exit_code == 2 and f"sample: {message}" in done.stderr


def test_samples_are_read_from_numpy_and_safetensors(folder, spikeloom):
    import numpy
    from safetensors.torch import save_file

    x = torch.load("x.pt")
    numpy.save("x.npy", x.numpy())
    save_file({"x": x}, "x.safetensors")
    for sample in ("x.npy", "x.safetensors"):
        done = spikeloom("export", "models:snn", "--sample", sample, "-o", "net.nir")
        assert done.exit_code == 0, done.stderr
