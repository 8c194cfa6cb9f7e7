"""Train one small network in three frameworks with spikeloom's neurons, and exchange it.

Each network learns handwritten digits. Beside it stands the framework's own neuron: the time of a
training step, the memory kept for it, and the spikes it would fire. Then the network is written to
a NIR file, and all three frameworks read that file and must fire the same spikes again.

    make demo        # or: python examples/demo.py
"""

import argparse
import json
import logging
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from digits import data, pictures
from digits.comparison import differing_spikes, kept_for_backward, step_times
from digits.exchange import READERS, exchange
from digits.hosts import HOSTS, Host
from digits.training import train
from torch import nn

from spikeloom.files import write_text
from spikeloom.report import Report

AIM = 0.95


@dataclass(frozen=True)
class Result:
    """What was found in one framework; ``ours`` is with spikeloom's neuron, ``own`` without."""

    framework: str
    accuracy_by_epoch: list[float]
    step_ms_ours: float
    step_ms_own: float
    kept_ours: float
    kept_own: float
    spikes: int
    spikes_differing_own: int
    spikes_differing_read_by: dict[str, int]


def main() -> None:
    options = arguments()
    prepare(options.output)
    digits = data.load()
    networks, results = {}, []
    for host in HOSTS:
        networks[host.name], curve = train(host, digits, options.epochs)
        results.append(examine(host, networks[host.name], curve, digits, options))
    save(results, options.output)
    pictures.draw_training(results, AIM, options.output / "training.png")
    pictures.draw_spikes(networks["SpikingJelly"], digits, options.output / "spikes.png")
    print("\n\n".join(map(str, ("", *tables(results)))))
    print(f"\nPictures and numbers: {options.output}/")
    if found := complaints(results, options.aim):
        sys.exit("\n".join(found))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("demo-output"))
    parser.add_argument("--quick", action="store_true", help="look around: 3 epochs, any accuracy")
    options = parser.parse_args()
    options.epochs, options.rounds, options.aim = (3, 5, 0.0) if options.quick else (20, 50, AIM)
    return options


def prepare(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    # Layers as small as these are slower on several threads.
    torch.set_num_threads(1)
    # SpikingJelly's own neuron looks for Triton, and torch logs that it is not there.
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)


def examine(
    host: Host,
    network: nn.Module,
    curve: list[float],
    digits: data.Digits,
    options: argparse.Namespace,
) -> Result:
    """Compare with the framework's own neuron, then send the network around."""
    x = data.over_time(digits.test_images)
    with torch.no_grad():
        spikes = host.ours.run(network, x)
    ours, own = step_times(host, digits, options.rounds)
    return Result(
        framework=host.name,
        accuracy_by_epoch=curve,
        step_ms_ours=ours,
        step_ms_own=own,
        kept_ours=kept_for_backward(host.ours),
        kept_own=kept_for_backward(host.own),
        spikes=spikes.numel(),
        spikes_differing_own=differing_spikes(host, network, x),
        spikes_differing_read_by=exchange(
            network, spikes, x, options.output / f"{host.name.lower()}.nir"
        ),
    )


def tables(results: list[Result]) -> tuple[Report, Report]:
    columns = ("framework", "accuracy", "step ms", "own step ms", "kept / input", "own kept")
    trained = Report("Trained with spikeloom's neuron; beside it the framework's own", columns)
    columns = ("network from", "its own neuron", *(f"file in {reader}" for reader in READERS))
    files = Report("Output spikes that differ", columns)
    for r in results:
        times = f"{r.step_ms_ours:.1f}", f"{r.step_ms_own:.1f}"
        kept = f"{r.kept_ours:.2f}", f"{r.kept_own:.2f}"
        trained.add(r.framework, f"{r.accuracy_by_epoch[-1]:.1%}", *times, *kept)
        files.add(r.framework, r.spikes_differing_own, *r.spikes_differing_read_by.values())
    trained.notes.append("kept / input: bytes that a layer of neurons keeps for its backward pass")
    files.notes.append(f"of {results[0].spikes}, on {data.STEPS} steps of every test image")
    return trained, files


def save(results: list[Result], output: Path) -> None:
    packages = ("torch", "spikeloom", "spikingjelly", "snntorch", "norse", "nir")
    report = {
        "versions": {name: version(name) for name in packages},
        "threads": torch.get_num_threads(),
        "results": [asdict(result) for result in results],
    }
    write_text(output / "report.json", json.dumps(report, indent=2) + "\n")


def complaints(results: list[Result], aim: float) -> list[str]:
    """What went wrong, if anything did."""
    found = []
    for r in results:
        if r.accuracy_by_epoch[-1] < aim:
            found.append(
                f"{r.framework}: accuracy {r.accuracy_by_epoch[-1]:.1%}, aimed at {aim:.0%}"
            )
        differing = {"its own neuron": r.spikes_differing_own, **r.spikes_differing_read_by}
        found += [f"{r.framework}: {n} spikes differ in {who}" for who, n in differing.items() if n]
    return found


if __name__ == "__main__":
    main()
