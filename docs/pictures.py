"""The pictures of the tutorials that no example draws.

Run ``python docs/pictures.py`` after a change of what they show; it takes a minute.
"""

from pathlib import Path

import torch
from torch import nn
from transformers import BertConfig, BertModel

from spikeloom import SpikingLayer, compress, convert, neurons, pictures, run
from spikeloom.models import SpikingMLP
from spikeloom.report import Report
from spikeloom.verify import count_energy, fold_norms

IMAGES = Path(__file__).parent / "images"


def draw_las() -> None:
    """The error of a small BERT against the number of steps."""
    torch.manual_seed(0)
    size = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
    model = BertModel(BertConfig(vocab_size=200, num_hidden_layers=2, **size)).eval()
    calibration = [{"input_ids": torch.randint(200, (16, 24))} for _ in range(4)]
    sample = {"input_ids": torch.randint(200, (16, 24))}

    def recipe(steps: int) -> convert.LAS:
        return convert.LAS(steps, progress=False)

    found = convert.sweep_steps(recipe, model, calibration, sample, steps=(4, 6, 8, 10, 12, 16))
    found.title = "A small BERT converted by LAS"
    found.plot(path=IMAGES / "las_steps.png")


def draw_osbc() -> None:
    """What pruning does to the membranes of each layer, before and after compensation."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Linear(64, 128), SpikingLayer(neurons.LIF(tau=4.0))),
        *(nn.Linear(128, 64), SpikingLayer(neurons.LIF(tau=4.0))),
        nn.Linear(64, 10),
    ).eval()
    for layer in (net[0], net[2]):
        nn.init.normal_(layer.weight, std=0.5)
    spikes = (torch.rand(12, 256, 64) < 0.2).float()
    stats = compress.calibrate(net, [spikes])
    pruned = compress.prune(net, stats, 0.8)
    columns = ("layer", "membrane before", "membrane after", "weight before", "weight after")
    rows = zip(*(pruned.column(name) for name in columns), strict=True)
    report = Report("Errors at 80 % sparsity", columns, list(rows))
    report.plot(path=IMAGES / "osbc_layers.png")


def draw_spikelm() -> None:
    """Spikes of -1, 0 and 1 of an elastic neuron."""
    torch.manual_seed(0)
    spikes, _ = run(neurons.ElasticBiSpike(alpha=0.8), torch.randn(40, 1, 24))
    title = "Spikes of ElasticBiSpike: black is +1, red is -1"
    pictures.raster(spikes, IMAGES / "spikelm_spikes.png", title=title)


def draw_spiking_mlp() -> None:
    """The additions of each layer of a small spiking MLP."""
    torch.manual_seed(0)
    model = SpikingMLP(
        image_size=8, patch_size=2, in_channels=1, num_classes=10, dim=24, depths=(1, 1)
    )
    with torch.no_grad():  # the norms learn what they see, so that every layer fires
        for _ in range(30):
            model(torch.rand(64, 1, 8, 8))
    energy = count_energy(fold_norms(model.eval()), torch.rand(16, 1, 8, 8))
    energy.plot("AC", IMAGES / "spiking_mlp_additions.png")


if __name__ == "__main__":
    for draw in (draw_las, draw_osbc, draw_spikelm, draw_spiking_mlp):
        draw()
