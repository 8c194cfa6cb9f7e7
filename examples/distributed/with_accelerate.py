"""accelerate: the same loop on one process or many, which `prepare` makes of it.

torchrun --standalone --nproc-per-node 2 -m examples.distributed.with_accelerate
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.nn import functional as F
from torch.utils.data import DataLoader

from examples.distributed.network import BATCH, LEARNING_RATE, Classifier, accuracy, datasets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=Path("accelerate"))
    options = parser.parse_args()

    # On CPUs it has to be told, or each process trains by itself.
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), gradient_accumulation_steps=2)
    torch.manual_seed(0)
    train, test = datasets()
    model = Classifier()
    network, optimizer, batches = accelerator.prepare(
        model,
        torch.optim.Adam(model.parameters(), LEARNING_RATE),
        DataLoader(train, BATCH // 2, shuffle=True),
    )
    for _ in range(options.epochs):
        for images, labels in batches:
            with accelerator.accumulate(network):
                accelerator.backward(F.cross_entropy(network(images), labels))
                optimizer.step()
                optimizer.zero_grad()
    accelerator.save_state(str(options.folder))
    if accelerator.is_main_process:
        print(f"test accuracy {accuracy(accelerator.unwrap_model(network).cpu(), test):.3f}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
