"""Plain torch: a replica on each process, gradients averaged, a checkpoint after each epoch.

    torchrun --standalone --nproc-per-node 2 -m examples.distributed.data_parallel

On several machines with 8 GPUs each, on every one of them:

    torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
        -m examples.distributed.data_parallel
"""

import argparse
import os
from pathlib import Path

import torch
from torch import distributed
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from examples.distributed.network import BATCH, LEARNING_RATE, Classifier, accuracy, datasets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--checkpoint", type=Path, default=Path("digits.pt"))
    options = parser.parse_args()

    distributed.init_process_group()  # NCCL for GPUs, gloo for CPUs
    rank, has_gpu = distributed.get_rank(), torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if has_gpu else "cpu"
    if has_gpu:
        torch.cuda.set_device(device)
    torch.manual_seed(0)
    train, test = datasets()
    network = DistributedDataParallel(Classifier().to(device))
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    sampler = DistributedSampler(train)
    for epoch in range(options.epochs):
        sampler.set_epoch(epoch)
        for images, labels in DataLoader(train, BATCH, sampler=sampler):
            optimizer.zero_grad()
            F.cross_entropy(network(images.to(device)), labels.to(device)).backward()
            optimizer.step()
        if rank == 0:
            torch.save(network.module.state_dict(), options.checkpoint)
    if rank == 0:
        print(f"test accuracy {accuracy(network.module.cpu(), test):.3f}")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
