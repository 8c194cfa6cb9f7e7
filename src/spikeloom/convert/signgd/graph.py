"""A model as a graph of torch operators, cleaned for conversion.

The graph is captured with torch.export, so it does not matter whether the model calls a module, a
function or a method, nor whether ``torch.fx`` could trace it (Hugging Face models): every operator
appears under one name, with its place in the user's module tree.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from spikeloom.calibrate import Batch
from spikeloom.convert.signgd.folding import fold_norms
from spikeloom.convert.signgd.nodes import name_of, place_of
from spikeloom.convert.signgd.rewriting import rewrite
from spikeloom.convert.signgd.storage import Operators
from spikeloom.hosted import copied
from spikeloom.observe import Effect, meaning_of
from spikeloom.observe.dialects import is_in_place, overload_of

__all__ = ["Captured", "capture", "note_values"]


@dataclass
class Captured:
    """A model's graph and how its arguments and results are laid out.

    Attributes:
        module: The graph with the model's tensors, under the user's names.
        arguments: The structure of ``(args, kwargs)``.
        results: The structure of what the model returns.
        example: The flat arguments it was captured with.
    """

    module: fx.GraphModule
    arguments: Any
    results: Any
    example: list[Any]

    def __post_init__(self) -> None:
        args, kwargs = self.arguments.unflatten(self.example)
        self._names, self._count = list(kwargs), len(args)
        # Tensors and nothing around them, as most models have it, are quickly laid out.
        self._has_bare_arguments = not kwargs and all(isinstance(arg, Tensor) for arg in args)
        self._has_bare_result = self.results.is_leaf()

    def __deepcopy__(self, memo: dict[int, Any]) -> Captured:
        module = copy.deepcopy(self.module, memo)
        return Captured(module, self.arguments, self.results, self.example)

    def __getstate__(self) -> dict[str, Any]:
        """Structures as values that have them."""
        places = list(range(self.results.num_leaves))
        return {
            "module": self.module,
            "example": self.example,
            "arguments": self.arguments.unflatten(self.example),
            "results": self.results.unflatten(places),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.module, self.example = state["module"], state["example"]
        self.arguments = pytree.tree_structure(state["arguments"])
        self.results = pytree.tree_structure(state["results"])
        self.__post_init__()

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """The arguments of a call as a flat list, checked against the example.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.

        Raises:
            TypeError: If their number, type or dtype differs from the calibration batches'.
            ValueError: If their shape does, in any dimension but the first.
        """
        flat = list(args) if self._are_bare(args, kwargs) else self._laid_out(args, kwargs)
        for value, seen in zip(flat, self.example, strict=True):
            _check_argument(value, seen)
        return flat

    def _are_bare(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the arguments are their own flat list."""
        if kwargs or not self._has_bare_arguments or len(args) != self._count:
            return False
        return all(isinstance(arg, Tensor) for arg in args)

    def _laid_out(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        ordered = {name: kwargs[name] for name in self._names if name in kwargs}
        flat, structure = pytree.tree_flatten((tuple(args), ordered))
        if structure != self.arguments or len(ordered) != len(kwargs):
            raise TypeError(
                f"forward: the arguments must be like those of the calibration batches, "
                f"{self._count} positional and {self._names or 'no'} keyword(s); "
                f"got {len(args)} and {list(kwargs) or 'none'}"
            )
        return flat

    def restored(self, leaves: list[Any]) -> Any:
        """What the model returns, from its flat results."""
        if self._has_bare_result:
            return leaves[0]
        return pytree.tree_unflatten(leaves, self.results)


def _check_argument(value: Any, seen: Any) -> None:
    if not isinstance(seen, Tensor):
        if value != seen:
            raise ValueError(f"forward: converted for the argument {seen!r}, got {value!r}")
        return
    if not isinstance(value, Tensor) or value.dtype != seen.dtype:
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(
            f"forward: converted for inputs of {seen.dtype}, got {got}; use x.to({seen.dtype}), or "
            f"move the network by its own .to(dtype)"
        )
    if value.dim() != seen.dim() or value.shape[1:] != seen.shape[1:]:
        raise ValueError(
            f"forward: converted for inputs of shape [batch, {_dims(seen)}], "
            f"got {list(value.shape)}; convert again with such calibration batches"
        )


def _dims(tensor: Tensor) -> str:
    return ", ".join(map(str, tensor.shape[1:]))


def capture(model: nn.Module, batch: Batch) -> Captured:
    """The graph of a copy of a model, in evaluation mode.

    Args:
        model: Left as it is.
        batch: A call to capture; the first axis of its tensors is the batch.

    Raises:
        TypeError: If the model's control flow depends on values, it returns a class of its own, it
            calls ``torch.vmap``, or an operator writes into a view.
        ValueError: If a normalisation would use the statistics of the batch, or torch cannot copy
            the model.
    """
    own = copied("model", model).eval()
    # A batch of one would be taken for a constant.
    args, kwargs = pytree.tree_map(_at_least_two, (batch.args, batch.kwargs))
    shapes = _dynamic_shapes(own, args, kwargs)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch.export's own, about itself
            program = torch.export.export(own, args, kwargs, dynamic_shapes=shapes, strict=False)
            module = program.module()
    except Exception as error:
        _check_output(own, args, kwargs)
        raise TypeError(
            f"model: {type(model).__name__} cannot be captured as a graph; control flow that "
            f"depends on values has no spiking form. torch.export says: {_first_lines(error)}"
        ) from error
    flat, structure = pytree.tree_flatten((args, kwargs))
    graph = module.graph
    _check_mapped(graph)
    _drop_checks(graph)
    _drop_dropout(graph)  # first, because it returns its input itself
    _undo_in_place(graph)
    fold_norms(module)
    _reshape_instead_of_view(graph)
    graph.eliminate_dead_code()
    rewrite(graph)
    for node in graph.nodes:
        node.meta = {"nn_module_stack": node.meta.get("nn_module_stack")}
    own_graph = fx.Graph()  # without what torch.export would have called before and after it
    own_graph.output(own_graph.graph_copy(graph, {}))
    module = Operators(module, own_graph)  # holds what the graph reads, and nothing else
    note_values(module, flat)
    return Captured(module, structure, program.call_spec.out_spec, flat)


def _check_output(model: nn.Module, args: Any, kwargs: Any) -> None:
    """Refuse an output with a class that a graph cannot return."""
    with torch.no_grad():
        leaves = pytree.tree_leaves(model(*args, **kwargs))
    plain = (Tensor, bool, int, float, complex, str, type(None))
    odd = next((type(leaf).__name__ for leaf in leaves if not isinstance(leaf, plain)), None)
    if odd is not None:
        raise TypeError(
            f"model: {type(model).__name__} returns a {odd}, which torch cannot take apart; return "
            f"tensors in a tuple or a dict, or make a dataclass known with "
            f"torch.export.register_dataclass({odd})"
        )


def _check_mapped(graph: fx.Graph) -> None:
    """Refuse what runs on samples of which the graph holds no values."""
    node = next((node for node in graph.nodes if name_of(node) == "_add_batch_dim"), None)
    if node is not None:
        raise TypeError(
            f"model: torch.vmap at {place_of(node)} has no spiking form; write it for the whole "
            f"batch"
        )


class _Noting(fx.Interpreter):
    """Notes at every node the shape and dtype of its value."""

    def __init__(self, module: fx.GraphModule, under: str) -> None:
        super().__init__(module)
        self.under = under

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        n.meta[self.under] = pytree.tree_map(_outline, value)
        return value


def _outline(value: Any) -> Any:
    return value.detach().to("meta") if isinstance(value, Tensor) else value


def note_values(module: fx.GraphModule, inputs: list[Any]) -> None:
    """Run a graph and note at every node what its value looks like.

    ``meta["val"]`` holds the value's outline, ``meta["batch"]`` the axes that grow with the batch.

    Args:
        module: The graph; recompiled.
        inputs: Flat inputs.

    Raises:
        ValueError: If the graph works for one batch size only.
    """
    module.recompile()
    with torch.no_grad():
        _Noting(module, "val").run(*inputs)
        try:
            _Noting(module, "larger").run(*pytree.tree_map(_one_more, inputs))
        except RuntimeError as error:
            raise ValueError(
                f"model: works only for batches of {_batch(inputs)}; write sizes such as "
                f"x.shape[0] instead of numbers and len(x). It says: {_first_lines(error)}"
            ) from error
    for node in module.graph.nodes:
        here, larger = node.meta["val"], node.meta.pop("larger")
        if isinstance(here, Tensor):
            pairs = zip(here.shape, larger.shape, strict=True)
            node.meta["batch"] = [axis for axis, (a, b) in enumerate(pairs) if a != b]


def _one_more(value: Any) -> Any:
    return torch.cat((value, value[:1])) if isinstance(value, Tensor) and value.dim() else value


def _batch(inputs: list[Any]) -> int:
    return next(len(value) for value in inputs if isinstance(value, Tensor) and value.dim())


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _at_least_two(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dim() and value.shape[0] == 1:
        return torch.cat((value, value))
    return value


def _batch_axis(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dim():
        return {0: torch.export.Dim.AUTO}
    return None


def _dynamic_shapes(model: nn.Module, args: Any, kwargs: Any) -> dict[str, Any]:
    """For torch.export: the first axis of every tensor may change, by argument name."""
    signature = inspect.signature(model.forward)
    bound = signature.bind(*args, **kwargs).arguments
    return {name: pytree.tree_map(_batch_axis, value) for name, value in bound.items()}


# --- Cleaning -------------------------------------------------------------------------------


def _drop_checks(graph: fx.Graph) -> None:
    for node in reversed(graph.nodes):
        schema = getattr(node.target, "_schema", None)
        is_check = schema is not None and not schema.returns and not schema.is_mutable
        if is_check or node.op == "call_module":  # the one module that an exported graph calls
            graph.erase_node(node)


def _undo_in_place(graph: fx.Graph) -> None:
    """Operators that write into their input, as operators that return a new value."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        name = name_of(node)
        if node.op != "call_function" or not is_in_place(name):
            continue
        written = node.args[0]
        if not isinstance(written, fx.Node):
            continue
        if "::" in name:
            raise NotImplementedError(
                f"model: {name} at {place_of(node)} writes into its argument; write it as an "
                f"operator that returns a new tensor"
            )
        if _base(written).op == "get_attr":
            raise TypeError(
                f"model: {name} at {place_of(node)} writes into a buffer or parameter, which the "
                f"next call would read; a converted network starts every call at rest"
            )
        for alias in _aliases(written) - {written}:
            if any(order[user] > order[node] for user in alias.users):
                raise TypeError(
                    f"model: {name} at {place_of(node)} writes into a view of a tensor that is "
                    f"read again; write it without the in-place operator"
                )
        node.target = overload_of(name[:-1], node.target._overloadname)
        later = [user for user in written.users if order[user] > order[node]]
        for user in later:
            user.replace_input_with(written, node)


def _aliases(node: fx.Node) -> set[fx.Node]:
    """The nodes that share memory with this one."""
    base = _base(node)
    found, ahead = {base}, [base]
    while ahead:
        for user in ahead.pop().users:
            if _is_view(user) and user not in found:
                found.add(user)
                ahead.append(user)
    return found


def _base(node: fx.Node) -> fx.Node:
    """The node whose memory this one shows."""
    while _is_view(node):
        node = node.all_input_nodes[0]
    return node


def _is_view(node: fx.Node) -> bool:
    """Whether a value may share memory with what it is made of, or is one of several that do."""
    return getattr(node.target, "is_view", name_of(node) == "getitem")


def _drop_dropout(graph: fx.Graph) -> None:
    for node in list(graph.nodes):
        name = name_of(node)
        operation = meaning_of(name)
        if node.op != "call_function" or operation is None or operation.effect is not Effect.DROPS:
            continue
        if node.args[2]:
            raise ValueError(
                f"model: {name} at {place_of(node)} stays on in evaluation mode; pass "
                f"training=self.training, or use nn.Dropout"
            )
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)


def _reshape_instead_of_view(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if node.target is overload_of("view"):
            node.target = overload_of("reshape")
