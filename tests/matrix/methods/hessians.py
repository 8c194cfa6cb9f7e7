"""calibrate and prune: against a float64 run of the network and the definition of a Hessian.

A Hessian H says how far a change D of the weights moves the membranes: half of D H D is the mean
square of what a layer with the weights D makes of the filtered inputs. That is what is computed
here, by the layer itself.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from spikeloom import compress
from tests.matrix.model import Model, T
from tests.matrix.record import recorded

DRAWS = 3


def judge(model: Model) -> None:
    net, sample = model.made()
    dense, _ = model.made()
    stats = compress.calibrate(net, [sample])
    assert set(stats) == set(model.decays), f"calibrated {list(stats)}"
    matrices = {n for n, p in net.named_parameters() if sum(size > 1 for size in p.shape) > 1}
    assert matrices - {f"{name}.weight" for name in stats} <= set(stats.left_out)
    inputs = recorded(model.exact(dense), sample).inputs
    dense.double()
    for name, decay in model.decays.items():
        layer = dense.get_submodule(name)
        sequences = [filtered(x, decay) for x in in_steps(model, name, inputs[name])]
        for _ in range(DRAWS):
            change = torch.randn_like(layer.weight)
            torch.testing.assert_close(
                predicted(stats[name].spiking, layer, change),
                moved(layer, change, sequences),
                rtol=1e-5,
                atol=1e-7,
            )
    before = {name: net.get_submodule(name).weight.double() for name in stats}
    compress.prune(net, stats, sparsity=0.5)
    removed = sum(int(net.get_submodule(name).weight_mask.sum()) for name in stats)
    assert abs(removed - 0.5 * sum(W.numel() for W in before.values())) < 1
    for name, W in before.items():
        check_solved(stats[name].spiking, net.get_submodule(name), W)


def in_steps(model: Model, name: str, calls: list[Tensor]) -> list[Tensor]:
    """The inputs of a layer as sequences ``[T, ...]``."""
    match model.time.get(name, model.time.get("", "first")):
        case "first":
            return calls
        case "second":
            return [x.transpose(0, 1) for x in calls]
        case "folded":
            return [x.unflatten(0, (T, -1)) for x in calls]
        case "folded behind samples":
            return [x.unflatten(0, (-1, T)).transpose(0, 1) for x in calls]
        case "constant":
            return [x.expand(T, *x.shape) for x in calls]
        case "none":
            return [x[None] for x in calls]
        case "repeated":
            return [torch.stack(calls)]
        case "calls":
            streams = len(calls) // T
            return [torch.stack(calls[stream::streams]) for stream in range(streams)]
    raise AssertionError(model.time)


def filtered(x: Tensor, decay: float) -> Tensor:
    trace, traces = torch.zeros_like(x[0], dtype=torch.float64), []
    for now in x.double():
        trace = decay * trace + now
        traces.append(trace)
    return torch.stack(traces)


def by_rows(layer: nn.Module, W: Tensor) -> Tensor:
    """Weights as a row for each output."""
    is_transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    return (W.transpose(0, 1) if is_transposed else W).flatten(1)


def predicted(blocks, layer: nn.Module, change: Tensor) -> Tensor:
    """Half the quadratic form of each row."""
    rows = by_rows(layer, change)
    forms = torch.zeros(len(rows), dtype=torch.float64)
    for block in blocks:
        part = rows[block.rows]
        forms[block.rows] = 0.5 * ((part @ block.hessian) * part).sum(1)
    return forms


def moved(layer: nn.Module, change: Tensor, sequences: list[Tensor]) -> Tensor:
    """The mean square of each row's outputs if the weights were the change, summed over steps."""
    trial = copy.deepcopy(layer)
    trial._forward_pre_hooks.clear()
    trial._forward_hooks.clear()
    trial.weight, trial.bias = nn.Parameter(change), None
    total, count = torch.zeros(()), 0.0
    for sequence in sequences:
        is_linear = isinstance(layer, nn.Linear)
        with torch.no_grad():
            takes_steps = is_linear or getattr(layer, "step_mode", "s") == "m"
            y = trial(sequence if takes_steps else sequence.flatten(0, 1))
        rows = y.movedim(-1 if is_linear else y.dim() - layer.weight.dim() + 1, 0).flatten(1)
        total = total + rows.square().sum(1)
        count += rows.shape[1] / len(sequence)
    return total / count


def check_solved(blocks, layer: nn.Module, before: Tensor) -> None:
    """What is kept has taken over all that it can."""
    old, new = by_rows(layer, before), by_rows(layer, layer.weight.double())
    masks = by_rows(layer, layer.weight_mask)
    for block in blocks:
        H = block.hessian
        damped = H + 0.01 * H.diagonal().mean() * torch.eye(len(H), dtype=H.dtype)
        for row in block.rows:
            kept = ~masks[row]
            best = torch.linalg.solve(damped[kept][:, kept], damped[kept] @ old[row])
            assert not new[row][~kept].any()
            torch.testing.assert_close(new[row][kept], best, rtol=1e-4, atol=1e-5)
