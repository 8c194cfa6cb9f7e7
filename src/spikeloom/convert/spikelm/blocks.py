"""Where the spikes go in a transformer block, architecture by architecture.

Modules keep their classes and their weights' names: spikes enter through hooks, and bi-spiking
neurons are added beside the weights, as ``spikes`` (on what enters a module), ``source_spikes``
(on the other sequence of a cross-attention) and ``quantise`` (on keys and values that leave).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, arange, cat, nn

from spikeloom.convert.spikelm.amplitude import BiSpikes
from spikeloom.kernel.neuron import Neuron

__all__ = ["ARCHITECTURES", "Block", "Fold", "Stack", "reorder_cache", "spike_stack"]


@dataclass
class Fold:
    """Time folded into the batch axis, ``[T * batch, ...]``, for modules that know no time.

    Args:
        steps: T.
        mask: Which tokens are not padding, ``[batch, length]``, during a call of the stack.
    """

    steps: int
    mask: Tensor | None = None

    def repeat(self, x: Tensor) -> Tensor:
        """The same values at every step."""
        return x.expand(self.steps, *x.shape).flatten(0, 1)

    def unfold(self, x: Tensor) -> Tensor:
        """``[T, batch, ...]``."""
        return x.unflatten(0, (self.steps, -1))

    def tokens(self, x: Tensor) -> Tensor | None:
        """The mask for values ``[T, batch, length, *]``, or ``[T, batch * length, *]``."""
        if self.mask is None:
            return None
        if x.dim() == 3:
            return self.mask.reshape(-1)
        return self.mask[:, -x.shape[2] :]  # with a cache only the last tokens come


class FoldedSpikes(BiSpikes):
    """Bi-spiking neurons for values with time folded into the batch axis.

    Args:
        neuron: The description.
        fold: The stack's time axis.
        feeds: The weight layers that receive the spikes, named from the module they belong to.
        rule: The arguments of :class:`~spikeloom.convert.BiSpikes`.
    """

    def __init__(self, neuron: Neuron, fold: Fold, feeds: tuple[str, ...], **rule: Any) -> None:
        super().__init__(neuron, **rule)
        self.fold = fold
        self.feeds = feeds

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Spikes for ``[T * batch, *]``."""
        x = self.fold.unfold(x)
        return super().forward(x, self.fold.tokens(x)).flatten(0, 1)


class FoldedKeyValue(nn.Module):
    """The quantiser of a projection whose last two thirds are keys and values.

    Args:
        keys: The neurons of the keys,
        values: and of the values.
    """

    def __init__(self, keys: FoldedSpikes, values: FoldedSpikes) -> None:
        super().__init__()
        self.keys = keys
        self.values = values

    def forward(self, projected: Tensor) -> Tensor:
        """Queries as they are, keys and values as spikes."""
        q, k, v = projected.chunk(3, -1)
        return cat([q, self.keys(k), self.values(v)], -1)


@dataclass(frozen=True)
class Block:
    """The sites of one block, as module names.

    Args:
        attention: The attention module on whose input one neuron serves queries, keys and values.
        projections: Its weight layers that this input reaches,
        quantised: and those whose outputs are keys or values.
        packed: The one layer that yields queries, keys and values together, if there is one.
        linears: Every other weight layer; each has a neuron on its input.
        cross: An attention module on another sequence, with the same projections.
    """

    attention: str
    projections: tuple[str, ...]
    linears: tuple[str, ...]
    quantised: tuple[str, ...] = ()
    packed: str = ""
    cross: str = ""


@dataclass(frozen=True)
class Stack:
    """A stack of blocks: where it is in the model and what each block holds.

    Args:
        owner: The module whose call the attention mask comes with, from the base model.
        blocks: Its list of blocks.
        block: The sites of each.
        layerdrop: The configuration's entry for skipped blocks.
    """

    owner: str
    blocks: str
    block: Block
    layerdrop: str = ""


_QKV = ("q_proj", "k_proj", "v_proj")
_BERT = Stack(
    "",
    "encoder.layer",
    Block(
        attention="attention.self",
        projections=("query", "key", "value"),
        quantised=("key", "value"),
        linears=("attention.output.dense", "intermediate.dense", "output.dense"),
    ),
)
_BART = Block("self_attn", _QKV, ("self_attn.out_proj", "fc1", "fc2"), _QKV[1:])
_BART_DECODER = Block(
    "self_attn",
    _QKV,
    ("self_attn.out_proj", "encoder_attn.out_proj", "fc1", "fc2"),
    _QKV[1:],
    cross="encoder_attn",
)
ARCHITECTURES: dict[str, tuple[Stack, ...]] = {
    "bert": (_BERT,),
    "roberta": (_BERT,),
    "gpt2": (
        Stack(
            "",
            "h",
            Block("attn", ("c_attn",), ("attn.c_proj", "mlp.c_fc", "mlp.c_proj"), packed="c_attn"),
        ),
    ),
    "opt": (Stack("decoder", "layers", _BART, "layerdrop"),),
    "bart": (
        Stack("encoder", "layers", _BART, "encoder_layerdrop"),
        Stack("decoder", "layers", _BART_DECODER, "decoder_layerdrop"),
    ),
}


@dataclass
class Placed:
    """One site as it was placed, for the report."""

    name: str
    on: str
    neuron: str


Make = Callable[[bool, Fold, tuple[str, ...]], FoldedSpikes]


@dataclass
class _Placing:
    """Puts the sites of one stack in place."""

    stack: Stack
    fold: Fold
    make: Make
    source: Fold | None = None
    placed: list[Placed] = field(default_factory=list)

    def site(self, stateless: bool, feeds: tuple[str, ...] = (), fold: Fold | None = None) -> Any:
        return self.make(stateless, fold or self.fold, feeds)

    def block(self, name: str, block: nn.Module) -> None:
        """The sites of one block."""
        parts = self.stack.block
        self.attention(f"{name}.{parts.attention}", block.get_submodule(parts.attention))
        for linear in parts.linears:
            layer = block.get_submodule(linear)
            layer.spikes = self.site(False, ("",))
            layer.register_forward_pre_hook(_spike_input, with_kwargs=True)
            self.placed.append(Placed(f"{name}.{linear}", "its input", "membrane"))
        if parts.cross:
            self.cross(f"{name}.{parts.cross}", block.get_submodule(parts.cross))

    def attention(self, name: str, attention: nn.Module) -> None:
        parts = self.stack.block
        attention.spikes = self.site(False, parts.projections)
        attention.register_forward_pre_hook(_spike_input, with_kwargs=True)
        shared = f"the input of {', '.join(parts.projections)}"
        self.placed.append(Placed(name, shared, "membrane"))
        self.quantise(name, attention)

    def cross(self, name: str, attention: nn.Module) -> None:
        query, *others = self.stack.block.projections
        attention.spikes = self.site(False, (query,))
        attention.source_spikes = self.site(False, tuple(others), self.source)
        attention.register_forward_pre_hook(_spike_both, with_kwargs=True)
        self.placed.append(Placed(name, f"the input of {query}", "membrane"))
        self.placed.append(Placed(name, f"the input of {', '.join(others)}", "membrane"))
        self.quantise(name, attention, self.source)

    def quantise(self, name: str, attention: nn.Module, fold: Fold | None = None) -> None:
        parts = self.stack.block
        if parts.packed:
            layer = attention.get_submodule(parts.packed)
            layer.quantise = FoldedKeyValue(self.site(True), self.site(True))
            layer.register_forward_hook(_quantise_output)
            for part in ("keys", "values"):
                self.placed.append(Placed(f"{name}.{parts.packed}", f"its {part}", "stateless"))
        for projection in parts.quantised:
            layer = attention.get_submodule(projection)
            layer.quantise = self.site(True, fold=fold)
            layer.register_forward_hook(_quantise_output)
            self.placed.append(Placed(f"{name}.{projection}", "its output", "stateless"))


def spike_stack(
    base: nn.Module, stack: Stack, steps: int, make: Make, source: Fold | None = None
) -> tuple[Fold, list[Placed]]:
    """Put neurons into a stack of blocks, and time on an axis before them.

    Values get their time axis, every step the same, when they enter the first block, and leave the
    last one as their mean over time.

    Args:
        base: The base model.
        stack: Its stack.
        steps: T.
        make: ``make(stateless, fold, feeds)`` makes the neurons of a site.
        source: The fold of the sequence that cross-attention reads.

    Returns:
        The stack's fold and the sites.
    """
    fold = Fold(steps)
    owner = base.get_submodule(stack.owner)
    _know_padding(owner, "attention_mask", fold)
    if source is not None:
        _know_padding(owner, "encoder_attention_mask", source)
    placing = _Placing(stack, fold, make, source)
    blocks = owner.get_submodule(stack.blocks)
    prefix = f"{stack.owner}.{stack.blocks}".lstrip(".")
    for number, (name, block) in enumerate(blocks.named_children()):
        enter = functools.partial(_enter, fold, number == 0)
        block.register_forward_pre_hook(enter, with_kwargs=True)
        placing.block(f"{prefix}.{name}", block)
    block.register_forward_hook(functools.partial(_leave, fold))
    return fold, placing.placed


def reorder_cache(steps: int, cache: Any, beams: Tensor) -> Any:
    """A cache of keys and values whose samples follow the beams, at every step alike."""
    first = arange(steps, device=beams.device)[:, None] * len(beams)
    cache.reorder_cache((first + beams).flatten())
    return cache


# --- Hooks. They are functions of the module, so that models copy and pickle. ---


def _know_padding(owner: nn.Module, argument: str, fold: Fold) -> None:
    place = list(inspect.signature(owner.forward).parameters).index(argument)
    take = functools.partial(_take_mask, fold, argument, place)
    owner.register_forward_pre_hook(take, with_kwargs=True)
    owner.register_forward_hook(functools.partial(_drop_mask, fold), always_call=True)


def _take_mask(fold: Fold, name: str, place: int, owner: nn.Module, args: Any, kw: Any) -> None:
    mask = args[place] if len(args) > place else kw.get(name)
    fold.mask = mask if isinstance(mask, Tensor) and mask.dim() == 2 else None


def _drop_mask(fold: Fold, owner: nn.Module, args: Any, output: Any) -> None:
    fold.mask = None


def _enter(fold: Fold, first: bool, block: nn.Module, args: Any, kwargs: Any) -> Any:
    """Everything that has a value for each sample gets one for each step and sample."""
    hidden, *others = args
    batch = hidden.shape[0] if first else hidden.shape[0] // fold.steps

    def repeated(value: Any) -> Any:
        per_sample = isinstance(value, Tensor) and value.dim() > 1 and value.shape[0] == batch
        return fold.repeat(value) if per_sample else value

    hidden = fold.repeat(hidden) if first else hidden
    named = {name: repeated(value) for name, value in kwargs.items()}
    return (hidden, *map(repeated, others)), named


def _leave(fold: Fold, block: nn.Module, args: Any, output: Tensor) -> Tensor:
    return fold.unfold(output).mean(0)


def _spike_input(module: Any, args: Any, kwargs: Any) -> Any:
    if args:
        return (module.spikes(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": module.spikes(kwargs["hidden_states"])}


def _spike_both(module: Any, args: Any, kwargs: Any) -> Any:
    args, kwargs = _spike_input(module, args, kwargs)
    return args, {**kwargs, "key_value_states": module.source_spikes(kwargs["key_value_states"])}


def _quantise_output(module: Any, args: Any, output: Tensor) -> Tensor:
    return module.quantise(output)
