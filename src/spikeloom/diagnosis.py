"""``doctor``: what is installed, what runs where, and what to do about the rest."""

from __future__ import annotations

import platform
from importlib import metadata
from importlib.util import find_spec

import torch

from spikeloom.kernel.call import run
from spikeloom.kernel.choose import choose
from spikeloom.neurons import LIF
from spikeloom.report import Report

__all__ = ["doctor"]

# Package -> what it is for, and how to get it.
PACKAGES = {
    "torch": ("tensors", "pip install torch"),
    "llvmlite": ("the CPU kernel", 'pip install "llvmlite>=0.44"'),
    "cupy": ("the GPU kernel", 'pip install "spikeloom[cuda13]" (or cuda12)'),
    "spikingjelly": ("host, from 2.0 on", 'pip install "spikeloom[spikingjelly]"'),
    "snntorch": ("host, from 1.0 on", 'pip install "spikeloom[snntorch]"'),
    "norse": ("host, from 1.1 on", 'pip install "spikeloom[norse]"'),
    "nir": ("export", 'pip install "spikeloom[nir]"'),
    "nirtorch": ("export", 'pip install "spikeloom[nir]"'),
    "transformers": ("language models", 'pip install "spikeloom[transformers]"'),
    "matplotlib": ("pictures", 'pip install "spikeloom[plot]"'),
}


def doctor() -> Report:
    """Check the installation: versions, hosts found, and each device's implementation with why.

    Every kernel that is said to run has just run: one neuron, forward and backward, compared with
    the eager step.

    Returns:
        A report that prints as a table; ``to_json`` makes it ready for a bug report.

    Example:
        >>> import spikeloom
        >>> report = spikeloom.doctor()
        >>> dict(zip(report.column("what"), report.column("found")))["device cpu"]
        'llvm'
    """
    report = Report("spikeloom doctor", ("what", "found", "remark"))
    report.add("python", platform.python_version(), platform.platform())
    report.add("spikeloom", metadata.version("spikeloom"), "")
    for package, (purpose, remedy) in PACKAGES.items():
        if find_spec(package) is None:
            report.add(package, None, f"{purpose}: {remedy}")
        else:
            report.add(package, _version(package), purpose)
    report.add("device cpu", *_check("cpu"))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            name = torch.cuda.get_device_name(index)
            found, remark = _check(f"cuda:{index}")
            report.add(f"device cuda:{index}", found, f"{name}; {remark}" if remark else name)
    else:
        report.add("device cuda", None, "torch sees no GPU")
    report.notes.append(
        "Training with very many neurons on Linux is bound by page faults: "
        "THP_MEM_ALLOC_ENABLE=1 in the environment makes torch use huge pages throughout."
    )
    return report


def _version(package: str) -> str:
    """The version of the distribution that provides a package, whatever its own name."""
    names = metadata.packages_distributions().get(package)
    if names is None:
        return "no version"  # found on the path, as a checkout is, and not installed
    return ", ".join(metadata.version(name) for name in sorted(set(names)))


def _check(device: str) -> tuple[str, str]:
    """The implementation that ``auto`` takes on a device, and a remark: why, or what failed."""
    neuron = LIF()
    implementation, reason = choose("auto", device, neuron.reason)
    if implementation == "eager":
        return implementation, reason
    try:
        return implementation, _compare_with_eager(neuron, implementation, device)
    except Exception as error:  # whatever goes wrong, the user wants to read it here
        return "eager", f"{implementation} failed: {type(error).__name__}: {error}"


def _compare_with_eager(neuron: LIF, implementation: str, device: str) -> str:
    x = (torch.arange(8 * 33, device=device) % 7 / 2.0).reshape(8, 33).requires_grad_()
    spikes, _ = run(neuron, x, implementation=implementation)
    expected, _ = run(neuron, x, implementation="eager")
    (grad,) = torch.autograd.grad(spikes.sum(), x)
    (expected_grad,) = torch.autograd.grad(expected.sum(), x)
    if not torch.equal(spikes, expected) or not torch.allclose(grad, expected_grad, atol=1e-5):
        return "DIFFERS FROM EAGER: please report this table"
    return "ran, and equals eager"
