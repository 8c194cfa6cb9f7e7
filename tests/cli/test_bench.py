"""``spikeloom bench``."""

import json


def test_every_implementation_is_timed_beside_a_copy(spikeloom):
    done = spikeloom("bench", "--neurons", "64", "--steps", "2", "--rounds", "2", "--json")
    rows = json.loads(done.stdout)["rows"]
    assert [row["what"] for row in rows] == ["llvm", "eager", "copy"]
    assert all(row["best ms"] > 0 for row in rows)
    assert rows[-1]["best / copy"] == 1.0


def test_an_unknown_neuron_is_named(spikeloom):
    done = spikeloom("bench", "--neuron", "Lif")
    assert done.exit_code == 2 and "got 'Lif'" in done.stderr
