"""What processes that share a piece of work must have alike: its settings, model and files."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from spikeloom.kernel.sharded import is_sharded
from spikeloom.ranks import gathered, is_shared, is_together, together
from spikeloom.weights import Place

__all__ = ["check_same_checkpoint", "check_same_model", "check_unsharded_model", "in_step"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# So many values at both ends of a stored tensor tell whether it is the same.
SAMPLED = 1024
# What each process has as it likes: where its objects are, on which device, and what runs there.
_OWN = re.compile(r" at 0x[0-9a-f]+|(?<=device='cuda):\d+|(?<=implementation='auto') \(\w+\)")


def in_step(
    *own: str, flag: str | None = None
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """A function that all processes call with the same settings, and do or do not do together.

    Args:
        own: The arguments that each process has of its own, such as the model and the batches. So
            is ``progress``.
        flag: The keyword without which each process works alone; None: all always work together.

    Returns:
        A decorator. The function raises, as well as its own errors, a ValueError on all processes
        that names the setting and the rank, and what :func:`spikeloom.ranks.together` raises.
    """

    def decorate(work: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @functools.wraps(work)
        def work_in_step(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            is_alone = flag is not None and not kwargs.get(flag)
            if is_alone or is_together() or not is_shared():
                return work(*args, **kwargs)
            with together():
                _check_same_call(work, inspect.signature(work).bind(*args, **kwargs), own)
                return work(*args, **kwargs)

        return work_in_step

    return decorate


def _check_same_call(
    work: Callable[..., Any], given: inspect.BoundArguments, own: tuple[str, ...]
) -> None:
    given.apply_defaults()
    settings = {}
    for name, value in given.arguments.items():
        if name == "self":
            settings.update(vars(value))
        elif is_dataclass(value) and not isinstance(value, type):
            settings.update({f"{name}.{f.name}": getattr(value, f.name) for f in fields(value)})
        else:
            settings[name] = value
    shown = {
        name: _in_words(value)
        for name, value in settings.items()
        if name not in own and name.rpartition(".")[2] != "progress"
    }
    calls = gathered((work.__qualname__, shown))
    name_of_0, of_0 = calls[0]
    for rank, (name, other) in enumerate(calls):
        if name != name_of_0:
            raise ValueError(
                f"rank 0 calls {name_of_0} and rank {rank} {name}; all ranks must call the same "
                f"functions in the same order"
            )
        for setting in {**of_0, **other}:
            first, second = of_0.get(setting, "not given"), other.get(setting, "not given")
            if first != second:
                raise ValueError(
                    f"{setting}: is {first} on rank 0 and {second} on rank {rank}; give all ranks "
                    f"the same settings"
                )


def _in_words(value: Any) -> str:
    """A setting as a text that is the same in all processes where the setting is."""
    if isinstance(value, Tensor):
        return f"a tensor {_form(value)}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_in_words(each)}' for key, each in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_in_words, value))}]"
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    params = getattr(value, "params", None)  # a neuron's, whose text has only the shapes of tensors
    own = _in_words(params) if isinstance(params, Mapping) else ""
    return _OWN.sub("", repr(value)) + own


def check_same_model(model: nn.Module) -> None:
    """Refuse processes whose models differ in a parameter, a buffer, or a module.

    Of a module, its class and what it says of itself (``extra_repr``) are compared; of tensors,
    all values. Buffers of one whole number are left out: they count calls.

    Args:
        model: This process's.

    Raises:
        ValueError: On all processes, with the rank and the first name that differs.
        RankFailed: As :func:`spikeloom.ranks.gathered`.
    """
    if is_shared():
        remedy = (
            "give all ranks the same model, for example the one that rank 0 loads and broadcasts"
        )
        _check_same("model", dict(_marks(model)), remedy)


def check_same_checkpoint(places: Mapping[str, Place]) -> None:
    """Refuse processes whose checkpoints differ in a name, a shape, or the ends of a tensor.

    Reading all values would take as long as a pass over a batch.

    Args:
        places: Where this process's tensors are.

    Raises:
        ValueError: On all processes, with the rank and the first name that differs.
        RankFailed: As :func:`spikeloom.ranks.gathered`.
    """
    if is_shared():
        marks = {name: _ends(place.read()) for name, place in places.items()}
        _check_same("source", marks, "give all ranks copies of one checkpoint")


def _ends(value: Tensor) -> Any:
    flat = value.flatten()
    return tuple(value.shape), _form(flat[:SAMPLED]), _form(flat[-SAMPLED:])


def _check_same(argument: str, marks: dict[str, Any], remedy: str) -> None:
    of_ranks = gathered(marks)
    for rank, other in enumerate(of_ranks):
        for name in {**of_ranks[0], **other}:
            if of_ranks[0].get(name) != other.get(name):
                raise ValueError(
                    f"{argument}: {name!r} of rank {rank} is not that of rank 0; {remedy}"
                )


def _marks(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, parameter in model.named_parameters():
        yield name, _form(parameter)
    for name, buffer in model.named_buffers():
        if buffer.dim() or buffer.is_floating_point():
            yield name, _form(buffer)
    for name, module in model.named_modules():
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        yield name, (kind, _OWN.sub("", module.extra_repr()))


def _form(value: Tensor) -> tuple[tuple[int, ...], str, str | None]:
    """Shape, type, and a digest of the values where they can be read."""
    digest = None
    is_plain = type(value) in (Tensor, nn.Parameter) and value.layout is torch.strided
    if is_plain and not value.is_meta and not value.is_quantized:
        raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest = hashlib.blake2b(raw.numpy().tobytes(), digest_size=16).hexdigest()
    return tuple(value.shape), str(value.dtype), digest


def check_unsharded_model(model: nn.Module) -> None:
    """Refuse a model whose weights are spread over processes.

    Args:
        model: Any.

    Raises:
        TypeError: If a parameter is a DTensor; the message names it, and the remedy.
    """
    for name, value in model.named_parameters():
        if is_sharded((value,)):
            raise TypeError(
                f"model: {name!r} is a DTensor, of which each rank holds a part; give the model "
                f"before fully_shard or parallelize_module, or load into a whole one what "
                f"get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)) "
                f"gathers"
            )
