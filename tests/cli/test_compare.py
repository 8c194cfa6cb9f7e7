"""``spikeloom compare``."""

import json


def test_a_network_and_its_file_fire_the_same_spikes(folder, spikeloom):
    spikeloom("export", "models:snn", "--sample", "x.pt", "-o", "net.nir")
    done = spikeloom("compare", "models:snn", "net.nir", "--sample", "x.pt", "--json")
    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [(row["in A"], row["in B"]) for row in rows] == [("1", "1"), ("3", "3"), ("output",) * 2]
    assert all(row["differing"] == 0 and row["spikes in A"] > 0 for row in rows)


def test_networks_that_differ_are_status_1_and_show_where(folder, spikeloom):
    for seed in (0, 1):
        options = ["--sample", "x.pt", "-o", f"{seed}.nir", "--seed", seed]
        spikeloom("export", "models:snn", *options)
    done = spikeloom("compare", "0.nir", "1.nir", "--sample", "x.pt")
    assert done.exit_code == 1 and "values of the output differ" in done.stdout
