"""``spikeloom demo``."""


def test_the_demo_trains_draws_and_carries_away_a_network(folder, spikeloom):
    done = spikeloom("demo", "-o", "out", "--epochs", "30")
    assert done.exit_code == 0, done.stderr
    accuracy = float(done.stdout.strip().splitlines()[0].split("%")[0])
    assert accuracy > 95
    assert "0.00% of its spikes differ" in done.stdout
    assert (folder / "out" / "spikes.png").read_bytes().startswith(b"\x89PNG")
    assert spikeloom("inspect", "out/network.nir").exit_code == 0


def test_the_same_seed_is_the_same_network(folder, spikeloom):
    from spikeloom.export import read

    for out in ("a", "b"):
        spikeloom("demo", "-o", out, "--epochs", "1", "--seed", "5")
    first, second = (read(folder / out / "network.nir").nodes["0"] for out in ("a", "b"))
    assert (first.weight == second.weight).all()
