"""OSBC on several processes: each has a share of the images, and prunes a share of the layers.

torchrun --standalone --nproc-per-node 2 -m examples.distributed.compression
"""

from torch import distributed

from examples.distributed.network import BATCH, Classifier, datasets
from spikeloom import compress


def main() -> None:
    distributed.init_process_group()
    rank, size = distributed.get_rank(), distributed.get_world_size()
    (images, _), _ = (dataset.tensors for dataset in datasets())
    network = Classifier().eval()  # in real life: load_state_dict(torch.load("digits.pt"))
    for value in network.state_dict().values():
        distributed.broadcast(value, 0)
    stats = compress.calibrate(network, images[rank::size].split(BATCH))
    report = compress.prune(network, stats, sparsity=0.75, split=True)
    if rank == 0:
        print(report)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
