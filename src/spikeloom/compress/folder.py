"""A checkpoint that is compressed block by block: its weights are never in memory all at once."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from spikeloom.agreement import check_same_checkpoint, in_step
from spikeloom.compress.buffers import BUFFERS
from spikeloom.compress.calibration import calibrate
from spikeloom.compress.compression import prune, quantize
from spikeloom.compress.statistics import Statistics, fingerprint
from spikeloom.neurons import Trace
from spikeloom.ranks import gathered, number
from spikeloom.report import Report
from spikeloom.rows import KINDS, is_weight_layer
from spikeloom.stored import in_memory, let_load, store
from spikeloom.weights import (
    Place,
    check_target,
    open_tensors,
    places_in,
    save_tensors,
    write_index,
)

__all__ = ["osbc_folder"]

# The key of a block's metadata under which its settings, the hash of its source, and its rows of
# the report stand.
WRITTEN = "spikeloom.compress.osbc_folder 1"


@in_step("source", "target", "model", "batches")
def osbc_folder(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    model: nn.Module,
    batches: Iterable[Any],
    *,
    sparsity: float | Mapping[str, float] | None = None,
    bits: int | None = None,
    method: str = "osbc",
    effort: str = "balanced",
    blocks: Sequence[Sequence[str]] | None = None,
    traces: Mapping[str, Trace] | None = None,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> list[Report]:
    """Prune or quantise a checkpoint into another one, within the memory of one block.

    For each block of layers the network runs once over all batches, as :func:`calibrate`; the
    matrix of any other layer is read from its file when the layer computes, and is let go then. In
    memory are the weights and Hessians of one block, and the activations of one batch: nothing of
    the calibration is kept for the next block, which costs a pass over the batches for each. All
    blocks are calibrated on the network as it was, so the result is that of :func:`calibrate`,
    :func:`prune` and :func:`quantize` on the whole network.

    A block that is written is whole. A call that was interrupted goes on at the first block that is
    not there yet, if it is made again with the same source, settings and batches; blocks of another
    source or other settings are refused, which takes a reading of the whole source. With
    ``torch.distributed`` initialised, all processes call this, each with its share of the batches;
    the first one writes.

    Args:
        source: A folder with ``model.safetensors``, or with several files and their index, under
            the names of the model's parameters.
        target: A folder for the compressed checkpoint. :func:`load_compressed` takes its tensors.
        model: The network in evaluation mode, built within ``spikeloom.stored.on_meta()``: without
            values for its weights. It is not to be used afterwards.
        batches: As for :func:`calibrate`, a list or a DataLoader: it is read for every block.
        sparsity: The share of each layer's weights to remove, or of each layer by name.
        bits: Bits of a code, if layers are quantised, after they were pruned if they are.
        method: ``"osbc"``, or ``"plain"`` for the Hessians of the inputs as they are.
        effort: As for :func:`prune`.
        blocks: Names of the layers that are compressed together; None: every layer that has
            weights, by itself.
        traces: As for :func:`calibrate`.
        forward: As for :func:`calibrate`.

    Returns:
        A report of pruning, of quantisation, or both, as :func:`prune` and :func:`quantize`.

    Raises:
        TypeError: If the batches are an iterator, or as :func:`calibrate`.
        ValueError: If there is neither sparsity nor bits, a name is no layer's, the source lacks a
            file or a weight, has a damaged one, or is the target as well, or the target holds
            blocks of other settings, layers or weights, or other files of weights; or as
            :func:`calibrate`, :func:`prune` and :func:`quantize`.
        OSError: If a file cannot be written; the blocks before it stay.
        RankFailed: If another process of ``torch.distributed`` failed.

    Example:
        >>> import tempfile, pathlib, torch
        >>> from safetensors.torch import load_file, save_file
        >>> from spikeloom import SpikingLayer, compress, neurons
        >>> from spikeloom.stored import on_meta
        >>> def network():
        ...     neuron = SpikingLayer(neurons.LIF())
        ...     return torch.nn.Sequential(torch.nn.Linear(8, 4), neuron).eval()
        >>> source, target = (pathlib.Path(tempfile.mkdtemp()) for _ in "ab")
        >>> save_file(network().state_dict(), source / "model.safetensors")
        >>> with on_meta():
        ...     empty = network()
        >>> batches = [torch.rand(10, 16, 8).round()]
        >>> (report,) = compress.osbc_folder(source, target, empty, batches, sparsity=0.75)
        >>> report.column("removed")
        [24]
        >>> tensors = [load_file(file) for file in target.glob("*.safetensors")]
        >>> small = network()
        >>> compress.load_compressed(small, {k: v for part in tensors for k, v in part.items()})
        >>> int((small[0].weight == 0).sum())
        24
    """
    source, target = Path(source), Path(target)
    if target.exists() and source.samefile(target):
        raise ValueError(f"target: must be another folder than source, got {target}")
    if iter(batches) is batches:
        raise TypeError(
            "batches: must be a list or a DataLoader, which can be read once for every block, got "
            "an iterator"
        )
    if sparsity is None and bits is None:
        raise ValueError("sparsity: and bits are both None; give at least one of them")
    if method not in ("osbc", "plain"):
        raise ValueError(f"method: must be 'osbc' or 'plain', got {method!r}")
    places = places_in(source)
    store(model, places)
    check_same_checkpoint(places)
    let_load(model)
    layers = {name: m for name, m in model.named_modules() if _is_stored_layer(m)}
    named = [[name] for name in layers] if blocks is None else [list(block) for block in blocks]
    _check_names(named, layers)
    if number() == 0:
        target.mkdir(parents=True, exist_ok=True)
    shares = sparsity if isinstance(sparsity, Mapping) else None
    settings = [
        {
            "layers": names,
            "sparsity": sparsity if shares is None else {name: shares[name] for name in names},
            "bits": bits,
            "method": method,
            "effort": effort,
        }
        for names in named
    ]
    paths = [target / f"block-{n + 1:05}-of-{len(named):05}.safetensors" for n in range(len(named))]
    others = _others(places, named)
    weights = None
    if number() == 0:
        check_target(target, {*(path.name for path in paths), *others})
        weights = _hash(places)
    # All processes follow the first one, which may be the only one that sees the folder.
    before = gathered(
        [_tables_of(*each, weights, source) for each in zip(paths, settings, strict=True)]
        if weights is not None
        else None
    )[0]
    assert before is not None
    reports: list[Report] = []
    for path, names, asked, tables in zip(paths, named, settings, before, strict=True):
        if tables is None:
            with in_memory(layers[name] for name in names):
                stats = calibrate(
                    model, batches, layers=names, traces=traces, forward=forward,
                    plain=method == "plain",
                )  # fmt: skip
                part = _part(layers, names)
            made = _compressed(part, stats, names, sparsity, bits, method, effort)
            tables = [(r.title, list(r.columns), [list(row) for row in r.rows]) for r in made]
            if number() == 0:
                _write_block(
                    path, part, names, {"settings": asked, "source": weights, "tables": tables}
                )
            gathered(None)
        _collect(reports, tables)
    if number() == 0:
        _write_others(target, places, others, paths)
    return reports


def _is_stored_layer(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    return is_weight_layer(module) and weight is not None and weight.is_meta


def _check_names(blocks: Sequence[Sequence[str]], layers: Mapping[str, nn.Module]) -> None:
    seen: set[str] = set()
    for name in (name for block in blocks for name in block):
        if name not in layers:
            raise ValueError(
                f"blocks: {name!r} is not a stored {KINDS} module of the model; there are "
                f"{', '.join(layers)}"
            )
        if name in seen:
            raise ValueError(f"blocks: {name!r} is named twice")
        seen.add(name)


def _part(layers: Mapping[str, nn.Module], names: Sequence[str]) -> nn.Module:
    """Copies of some layers under their names in the model, and nothing else."""
    whole = nn.Module()
    for name in names:
        *path, leaf = name.split(".")
        parent = whole
        for step in path:
            if step not in parent._modules:
                parent.add_module(step, nn.Module())
            parent = parent.get_submodule(step)
        layer = copy.deepcopy(layers[name])
        layer._forward_pre_hooks.clear()
        layer._forward_hooks.clear()
        parent.add_module(leaf, layer)
    return whole


def _compressed(
    part: nn.Module,
    stats: Statistics,
    names: Sequence[str],
    sparsity: float | Mapping[str, float] | None,
    bits: int | None,
    method: str,
    effort: str,
) -> list[Report]:
    """Prune and quantise the layers of a block in place."""
    reports, is_plain = [], method == "plain"
    if sparsity is not None:
        shares = {n: sparsity[n] if isinstance(sparsity, Mapping) else sparsity for n in names}
        how = "obs" if is_plain else "osbc"
        reports.append(
            prune(part, stats, method=how, allocation=shares, effort=effort, layers=names)
        )
    if bits is not None:
        how = "obc" if is_plain else "osbc"
        reports.append(quantize(part, stats, bits, how, layers=names))
    return reports


Table = tuple[str, list[str], list[list[Any]]]


def _collect(reports: list[Report], tables: Sequence[Table]) -> None:
    for place, (title, columns, rows) in enumerate(tables):
        if place == len(reports):
            reports.append(Report(title, tuple(columns)))
        for row in rows:
            reports[place].add(*row)


# --- Files ----------------------------------------------------------------------------------------


def _hash(places: Mapping[str, Place]) -> str:
    """What tells the source's weights from others, in whichever files they are.

    All weights count: what a block becomes depends on those before its layers.
    """
    hashes = {}
    for key in sorted(places):
        value = places[key].read()
        hashes[key] = [str(value.dtype), list(value.shape), fingerprint(value)]
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:16]


def _tables_of(
    path: Path, settings: Mapping[str, Any], weights: str, source: Path
) -> list[Table] | None:
    """The rows of a block that an earlier call has written; None if it has not."""
    if not path.exists():
        return None
    with open_tensors(path, "target") as file:
        found = json.loads((file.metadata() or {}).get(WRITTEN, "{}"))
    if found.get("settings") != json.loads(json.dumps(settings)):
        raise ValueError(
            f"target: {path} was made with {found.get('settings')}, and now {dict(settings)} is "
            f"asked for; give an empty folder, or the same settings"
        )
    if found.get("source") != weights:
        raise ValueError(
            f"target: {path} was made of other weights than {source} holds; give an empty folder, "
            f"or the same source"
        )
    tables: list[Table] = found["tables"]
    return tables


def _write_block(
    path: Path,
    part: nn.Module,
    names: Sequence[str],
    written: Mapping[str, Any],
) -> None:
    tensors: dict[str, Tensor] = {}
    for name in names:
        layer = part.get_submodule(name)
        own = {"weight": layer._parameters["weight"], **layer._buffers}
        for key in ("weight", *BUFFERS):
            if (value := own.get(key)) is not None:
                tensors[f"{name}.{key}"] = value.detach().cpu().contiguous()
    save_tensors(path, tensors, {WRITTEN: json.dumps(written)})


def _others(places: Mapping[str, Place], blocks: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """The files for what is not compressed, one for each of the source, and their tensors."""
    done = {f"{name}.weight" for block in blocks for name in block}
    others = {}
    for index, path in enumerate(sorted({place.path for place in places.values()})):
        keys = [key for key, place in places.items() if place.path == path and key not in done]
        if keys:
            others[f"other-{index + 1:05}.safetensors"] = keys
    return others


def _write_others(
    target: Path,
    places: Mapping[str, Place],
    others: Mapping[str, Sequence[str]],
    blocks: Sequence[Path],
) -> None:
    """Write what was not compressed, file by file, and the index of all."""
    files = {}
    for name, keys in others.items():
        save_tensors(target / name, {key: places[key].read() for key in keys})
        files.update(dict.fromkeys(keys, name))
    for path in blocks:
        with open_tensors(path, "target") as file:
            files.update(dict.fromkeys(file.keys(), path.name))
    write_index(target, files)
