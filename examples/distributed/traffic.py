"""How many bytes the processes send in a training step, and in a calibration.

The loopback device counts them, so nothing else may use it: on Linux, in a network of its own,

    unshare --net sh -c 'ip link set lo up; \\
        torchrun --standalone --nproc-per-node 2 -m examples.distributed.traffic'
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from examples.distributed.network import BATCH, Classifier, datasets
from spikeloom import compress, convert
from spikeloom.report import Report

STEPS = 100


def sent() -> int:
    """Bytes that all processes have sent through the loopback."""
    (line,) = (li for li in Path("/proc/net/dev").read_text().splitlines() if "lo:" in li)
    return int(line.split()[9])


@contextmanager
def quiet() -> Iterator[None]:
    """All processes together, before and after, while nothing is under way."""
    distributed.barrier()
    time.sleep(0.5)
    yield
    distributed.barrier()


def traffic(work: Callable[[], object], times: int) -> float:
    """Bytes that all processes send each time; connections are made before."""
    work()
    with quiet():
        before = sent()
    for _ in range(times):
        work()
    with quiet():
        after = sent()
    return (after - before) / times


def same(module: nn.Module) -> nn.Module:
    """The module as the first process has it."""
    for value in module.state_dict().values():
        distributed.broadcast(value, 0)
    return module


def main() -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, size = distributed.get_rank(), distributed.get_world_size()
    (images, labels), _ = (dataset.tensors for dataset in datasets())
    images, labels = images[rank::size], labels[rank::size]

    network = DistributedDataParallel(Classifier())

    def step() -> None:
        F.cross_entropy(network(images[:BATCH]), labels[:BATCH]).backward()

    spiking = same(Classifier().eval())
    analog = same(nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 10)).eval())
    batches = images.split(BATCH)
    found: list[compress.Statistics] = []
    report = Report(
        f"Bytes sent by all {size} processes", ("work", "measured", "payload", "2 (n - 1) payload")
    )
    payload = sum(value.nbytes for value in network.parameters())
    report.add("a training step", traffic(step, STEPS), payload, 2 * (size - 1) * payload)

    def calibrate() -> None:
        found[:] = [compress.calibrate(spiking, batches)]

    measured = traffic(calibrate, 2)
    blocks = [b for layer in found[0].values() for b in (*layer.spiking, *(layer.plain or ()))]
    payload = sum(block.hessian.nbytes for block in blocks)
    report.add("compress.calibrate", measured, payload, 2 * (size - 1) * payload)
    measured = traffic(lambda: convert.LAS(progress=False).apply(analog, batches), 2)
    payload = (64 + 128) * (512 + 8)  # counts and peaks of the channels of two sites
    report.add("convert.LAS", measured, payload, 2 * (size - 1) * payload)
    if rank == 0:
        print(report)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
