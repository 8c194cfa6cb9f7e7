"""``spikeloom verify``."""

import json


def test_a_spiking_network_needs_no_multiplication(folder, spikeloom):
    done = spikeloom("verify", "models:snn", "--sample", "x.pt", "--json")
    assert done.exit_code == 0, done.stderr
    proof, energy = json.loads(done.stdout)
    assert proof["ok"] and energy["accumulates"] > 0


def test_a_network_that_multiplies_is_status_1(folder, spikeloom):
    done = spikeloom("verify", "models:mixed", "--sample", "x.pt")
    assert done.exit_code == 1
    assert "NOT multiplication free" in done.stdout and "Operations of one sample" in done.stdout


def test_an_unknown_exempt_module_is_named(folder, spikeloom):
    done = spikeloom("verify", "models:snn", "--sample", "x.pt", "--exempt", "stem")
    assert (done.exit_code, done.stderr) == (
        2,
        "spikeloom: exempt: the model has no module 'stem'\n",
    )
