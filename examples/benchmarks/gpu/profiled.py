"""A few large calls for a profiler to look at.

ncu -k "regex:forward|backward" python examples/benchmarks/gpu/profiled.py
"""

import torch

import spikeloom
from spikeloom.neurons import LIF, surrogate


def main() -> None:
    atan = surrogate.ATan()
    for dtype in (torch.float32, torch.bfloat16):
        for neuron in (LIF(2.0, surrogate=atan), LIF(2.7, v_reset=None, surrogate=atan)):
            x = torch.randn(16, 10**7, device="cuda").to(dtype).requires_grad_()
            spikeloom.run(neuron, x)[0].backward(torch.ones_like(x))
            torch.cuda.synchronize()


if __name__ == "__main__":
    main()
