"""The error of every family on inputs that calibration has not seen, by the number of steps.

    python -m tests.convert.signgd.families                         # all of them, half an hour
    python -m tests.convert.signgd.families --family ViT U-Net --steps 64 --no-search

Relative to the spread of the float outputs, with 16 pictures to calibrate and 64 others to try:
a few of them make most of the error, so that fewer pictures would tell little.
Then how many steps the network is said to need, the error after as many, and the CPU seconds of a
conversion, on average.
"""

import argparse
import time
import warnings

import torch

from spikeloom.convert import SignGD
from spikeloom.report import Report
from tests.convert.signgd.families import FAMILIES, build, inputs, unseen_error

UNSEEN = 64


def row(name, steps, seed, **settings):
    model, shown = build(name, seed), inputs(name, 16, 1)
    seconds = []

    def converted(count):
        before = time.process_time()
        snn = SignGD(count, progress=False, **settings).apply(model, shown)
        seconds.append(time.process_time() - before)
        return snn

    networks = [converted(count) for count in steps]
    needed = networks[0].steps_needed
    networks.append(converted(needed))
    *errors, settled = [unseen_error(name, model, snn, UNSEEN) for snn in networks]
    chain = 1 + max(site.depth for site in networks[0].plan.sites)
    return name, chain, *errors, needed, settled, sum(seconds) / len(seconds)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--steps", nargs="+", type=int, default=[16, 32, 64])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--search", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    counts = [f"T={count}" for count in args.steps]
    columns = ("family", "in a chain", *counts, "needed", "error then", "seconds")
    report = Report("Error on unseen inputs", columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values beyond reach, which the error shows
        for name in args.family:
            report.add(*row(name, args.steps, args.seed, search=args.search))
    print(report)


if __name__ == "__main__":
    main()
