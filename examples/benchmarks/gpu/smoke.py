"""One small call of the GPU kernel beside the eager step; the last line says whether all is well.

python examples/benchmarks/gpu/smoke.py
"""

import sys
import time

import cupy
import torch
from cupy.cuda import nvrtc

import spikeloom
from spikeloom.neurons import LIF, surrogate


def run(tau: float | torch.Tensor, dtype: torch.dtype, implementation: str) -> list[torch.Tensor]:
    """Spikes, last potential and input gradient."""
    torch.manual_seed(0)
    x = (torch.randn(40, 4096, device="cuda") * 1.5 + 0.6).to(dtype).requires_grad_()
    neuron = LIF(tau, surrogate=surrogate.ATan())
    y, (v,) = spikeloom.run(neuron, x, implementation=implementation)
    (grad,) = torch.autograd.grad(y.float().sum() + v.sum(), x)
    torch.cuda.synchronize()
    return [y, v, grad.float()]


def main() -> int:
    print("torch", torch.__version__, "for CUDA", torch.version.cuda)
    print(torch.cuda.get_device_name(), "compute capability", torch.cuda.get_device_capability())
    print("CuPy", cupy.__version__, "with NVRTC", nvrtc.getVersion(), flush=True)
    equal = True
    for tau in (2.0, torch.tensor(2.3, device="cuda", requires_grad=True)):
        for dtype in (torch.float32, torch.bfloat16):
            start = time.perf_counter()
            y, v, grad = run(tau, dtype, "cupy")
            seconds = time.perf_counter() - start
            eager_y, eager_v, eager_grad = run(tau, dtype, "eager")
            same = torch.equal(y, eager_y) and torch.equal(v, eager_v)
            worst = (grad - eager_grad).abs().max().item()
            equal &= same and worst < 1e-2
            name = "learned" if isinstance(tau, torch.Tensor) else tau
            print(f"tau {name}, {dtype}: spikes and states equal {same}, input gradient within "
                  f"{worst:.1e}, first call {seconds:.2f} s", flush=True)  # fmt: skip
    print("smoke", "ok" if equal else "FAILED")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
