"""Lightning: its Trainer runs the processes, saves checkpoints, and logs the energy of the network.

pip install lightning
torchrun --standalone --nproc-per-node 2 -m examples.distributed.with_lightning
"""

import argparse
import os

import lightning
from torch.nn import functional as F
from torch.optim import Adam
from torch.utils.data import DataLoader

from examples.distributed.network import BATCH, LEARNING_RATE, Classifier, datasets
from spikeloom import verify


class Digits(lightning.LightningModule):
    """The classifier, its loss, and what is logged of it."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = Classifier()

    def training_step(self, batch, number):
        images, labels = batch
        return F.cross_entropy(self.classifier(images), labels)

    def validation_step(self, batch, number):
        images, labels = batch
        found = self.classifier(images).argmax(1)
        self.log("accuracy", (found == labels).float().mean(), sync_dist=True)
        if number == 0:
            report = verify.count_energy(self.classifier, images[:16])
            self.log("spikes", report.spikes, sync_dist=True)
            self.log("additions", float(report.accumulates), sync_dist=True)

    def configure_optimizers(self):
        return Adam(self.parameters(), LEARNING_RATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--folder", default="lightning")
    options = parser.parse_args()
    lightning.seed_everything(0)
    train, test = datasets()
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", 1)),
        strategy="ddp",
        max_epochs=options.epochs,
        default_root_dir=options.folder,
        logger=lightning.pytorch.loggers.CSVLogger(options.folder),
    )
    trainer.fit(Digits(), DataLoader(train, BATCH, shuffle=True), DataLoader(test, BATCH))
    if trainer.is_global_zero:
        print(f"test accuracy {float(trainer.callback_metrics['accuracy']):.3f}")


if __name__ == "__main__":
    main()
