"""The text that a neuron's kernels are compiled from, for readers."""

from __future__ import annotations

from spikeloom.kernel.adjoint import adjoint
from spikeloom.kernel.neuron import Neuron, tensor_of
from spikeloom.kernel.trace import Program

__all__ = ["source"]

CHOICES = {
    "target": ("cuda", "llvm"),
    "direction": ("forward", "backward"),
    "dtype": ("float32", "float64", "float16", "bfloat16"),
}


def source(
    neuron: Neuron, target: str = "cuda", direction: str = "forward", dtype: str = "float32"
) -> str:
    """The generated kernel of a neuron; needs neither a GPU nor CuPy.

    The CUDA text is the widest kernel, for any number of steps. A run may compile a narrower one,
    for rows that are not aligned, or one for short sequences only.

    Args:
        neuron: Whose kernel.
        target: ``"cuda"`` for CUDA C, ``"llvm"`` for LLVM IR.
        direction: ``"forward"`` or ``"backward"``; gradients are those of the inputs, the initial
            states and the parameters that require grad.
        dtype: Of the inputs: ``"float32"``, ``"float64"``, ``"float16"`` or ``"bfloat16"``.

    Raises:
        ValueError: If a name is unknown, or the neuron's step cannot be traced.

    Example:
        >>> import spikeloom
        >>> from spikeloom.kernel.source import source
        >>> text = source(spikeloom.neurons.IF(v_reset=None), target="cuda")
        >>> print(text[text.index("    const real h") : text.index("extern")].strip())
        const real h = v + x;
            const real u = h - v_threshold;
            const real s = u != u ? u : u >= 0.0f ? 1.0f : 0.0f;
            y = s;
            v_next = h - s * v_threshold;
        }
    """
    for name, value in (("target", target), ("direction", direction), ("dtype", dtype)):
        if value not in CHOICES[name]:
            known = ", ".join(map(repr, CHOICES[name]))
            raise ValueError(f"{name}: must be one of {known}, got {value!r}")
    if neuron.program is None:
        raise ValueError(f"neuron: there is no kernel to show, because {neuron.reason}")
    program = Program.parse(neuron.program)
    emit = _cuda if target == "cuda" else _llvm
    return emit(neuron, program, direction, dtype)


def _wanted(neuron: Neuron, program: Program) -> frozenset[tuple[str, int | str]]:
    tensors = {name: tensor_of(value) for name, value in neuron.params.items()}
    learned = {
        ("p", name)
        for name, tensor in tensors.items()
        if tensor is not None and tensor.requires_grad
    }
    return frozenset({*(("x", i) for i in range(program.inputs)), *learned})


def numbers(neuron: Neuron) -> list[float]:
    """The numbers that a neuron's kernels are given: its own, then its surrogate's."""
    own = [value for value in neuron.params.values() if isinstance(value, (int, float))]
    return [*own, *neuron.surrogate_numbers.values()]


def _cuda(neuron: Neuron, program: Program, direction: str, dtype: str) -> str:
    from spikeloom.kernel import emit_cuda
    from spikeloom.kernel.cuda_scan import Title
    from spikeloom.kernel.cuda_shape import SEGMENT, Shape, backward_shape, widest

    title = Title(neuron.name, neuron.state_names)
    powers, vec = program.powers(numbers(neuron)), widest(dtype)
    if direction == "forward":
        return emit_cuda.forward(program, Shape(dtype, vec, powers=powers), title)
    gradient = adjoint(program, _wanted(neuron, program))
    any_length = SEGMENT + 1
    shape = backward_shape(program, gradient, any_length, dtype, vec, powers)
    return emit_cuda.backward(program, gradient, shape, title)


def _llvm(neuron: Neuron, program: Program, direction: str, dtype: str) -> str:
    from spikeloom.kernel import emit_llvm

    if direction == "forward":
        return emit_llvm.forward(program, dtype)
    return emit_llvm.backward(program, adjoint(program, _wanted(neuron, program)), dtype)
