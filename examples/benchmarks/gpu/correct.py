"""How near the GPU kernels are to the eager loop, and their sums to float64: reported, not judged.

Spikes and states are compared bit for bit with the eager step on the same GPU, input gradients
elementwise. The gradient of a tau that all neurons share is a sum over neurons whose terms may
cancel; the yardstick is the sum in float64 of the gradients that each neuron's own tau gets, and
the error is relative to the sum of their magnitudes.

    python examples/benchmarks/gpu/correct.py OUT.json --seconds 60
"""

import argparse
from itertools import product
from pathlib import Path

import torch
from measure import Notes, problem

import spikeloom
from spikeloom.neurons import LIF, surrogate

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIZES = ((1, 8), (4, 10_007), (16, 16_384), (17, 10_007), (64, 16_384))


def gradients(
    tau: torch.Tensor, x: torch.Tensor, v_reset: float | None, implementation: str
) -> list[torch.Tensor]:
    """Spikes, last potential, and the gradients of the input and of tau."""
    leaf, tau = x.detach().requires_grad_(), tau.detach().requires_grad_()
    neuron = LIF(tau, v_reset=v_reset, surrogate=surrogate.ATan())
    y, (v,) = spikeloom.run(neuron, leaf, implementation=implementation)
    weight = torch.linspace(-1, 1, y.numel(), device=x.device).view(y.shape).to(y.dtype)
    return [y, v, *torch.autograd.grad((y * weight).sum() + v.sum(), [leaf, tau])]


def compare(x: torch.Tensor, v_reset: float | None) -> dict[str, object]:
    """The differences for one input."""
    real = torch.float64 if x.dtype == torch.float64 else torch.float32
    tau = torch.tensor(2.3, dtype=real, device=x.device)
    y, v, gx, gtau = gradients(tau, x, v_reset, "cupy")
    eager_y, eager_v, eager_gx, _ = gradients(tau, x, v_reset, "eager")
    terms = gradients(tau.expand(x.shape[1]).clone(), x, v_reset, "eager")[3].double()
    scale = terms.abs().sum().clamp_min(1e-30)
    return {
        "spikes_equal": torch.equal(y, eager_y),
        "states_equal": torch.equal(v, eager_v),
        "input_gradient": (gx.double() - eager_gx.double()).abs().max().item(),
        "tau_gradient": ((gtau.double() - terms.sum()).abs() / scale).item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--small", action="store_true", help="small sizes, to see that it runs")
    options = parser.parse_args()
    notes = Notes(options.output, options.seconds)
    torch.manual_seed(0)
    sizes = ((4, 64), (17, 33)) if options.small else SIZES
    for v_reset, dtype, (steps, neurons) in product((0.0, None), DTYPES, sizes):
        if notes.left() < 0:
            notes.add(what="out of time")
            return
        x = (torch.randn(steps, neurons, device="cuda") * 1.5 + 0.6).to(dtype)
        reset = "soft" if v_reset is None else "hard"
        where = {"reset": reset, "dtype": str(dtype).removeprefix("torch."), "T": steps}
        try:
            notes.add(**where, N=neurons, **compare(x, v_reset))
        except Exception as error:
            notes.add(**where, N=neurons, problem=problem(error))
    notes.add(what="done")


if __name__ == "__main__":
    main()
