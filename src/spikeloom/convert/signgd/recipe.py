"""signGD conversion: networks beyond ReLU, without retraining."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from spikeloom.agreement import check_same_model, check_unsharded_model, in_step
from spikeloom.calibrate import Batch, batches
from spikeloom.convert.signgd.calls import Calls
from spikeloom.convert.signgd.decompose import decompose_operators
from spikeloom.convert.signgd.fit import Fit
from spikeloom.convert.signgd.graph import capture
from spikeloom.convert.signgd.measure import measured
from spikeloom.convert.signgd.network import SignGDNetwork
from spikeloom.convert.signgd.operators import classify
from spikeloom.convert.signgd.reach import PER
from spikeloom.hosted import Make
from spikeloom.kernel.values import checked_count
from spikeloom.neurons.schedules import Schedule, as_schedule
from spikeloom.ranks import first_of_all, is_shared

__all__ = ["SignGD"]


class SignGD:
    """Convert a trained network to sign gradient descent neurons.

    Affine operators (linear, convolution, average pooling, residual addition, concatenation,
    reshaping ...) stay; a batch norm after a convolution or linear layer is folded into it. Every
    other operator becomes a node that tracks its value with one bit a step, whether the model
    calls it as a module, a function or a method. What only nodes read, such as a ReLU in front of
    a max-pool, those nodes compute themselves. An operator that is neither is refused by name
    and place, so nothing is silently wrong.

    Reach and steps are fitted to the calibration data, for the given number of steps. A value
    beyond a node's reach saturates, and path that a node walks while the nodes before it still move
    is lost. With ``schedule="auto"`` the steps of all nodes shrink at one rate. The more the steps
    of the nodes before disturb a node, the later its own begin to shrink. The rate, the sum of the
    steps and how much later are chosen on samples that were not fitted to.

    Args:
        steps: T. An output can be read after any of them.
        schedule: ``"auto"``, or one for all nodes: :class:`~spikeloom.neurons.Exponential`,
            :class:`~spikeloom.neurons.Inverse`, :class:`~spikeloom.neurons.Constant` or step sizes.
        decompose: False: max-pooling, normalisation, softmax and attention products are tracked
            whole, by one node each, and so are operators in a row. True: each operator has nodes of
            its own, and those four become the published chains of elementary nodes (maximum,
            square, exp, multiply, divide, a / sqrt(b)), which need more steps.
        make: Builds a host's module from a neuron description, such as
            ``spikeloom.plugins.spikingjelly.make``; None runs the fast path.
        quantile: Share of the calibration values that must lie within reach; 1 takes the largest.
        margin: A node's whole path as a multiple of that share; None fits it too. At few steps a
            finer resolution is worth some saturation; at many, more reach costs nothing.
        per: What has a reach of its own: ``"channel"``, each channel of a convolution and each
            feature of a linear layer; ``"neuron"``; or ``"node"``, the whole operator. ``"auto"``
            takes each neuron from 256 samples on, and each channel below. The fewer samples, the
            more a reach is drawn to those of its channel and its node.
        scale: Every neuron's scale, instead of a fit. ``"published"`` is that of the published
            code: the largest calibration value for each ReLU neuron, 1 for all others.
        samples: How many calibration samples steps and margin are chosen on, and the report is made
            of. They are spread over all batches, or are of the first one if samples see each other.
        search: Choose margin and steps by trial on samples that are not fitted to; False takes
            those of which least error is expected, after a look at a few samples. So does True with
            fewer than 16 samples and more than 8 steps, or if the network is so large that trials
            on as many would take minutes: fewer tell less than what is expected of networks of all
            kinds. One sample alone, or samples that see each other, leave nothing to try on.
        progress: Show a bar if it takes a while.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spikeloom import convert
        >>> _ = torch.manual_seed(0)
        >>> ann = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 3))
        >>> x = torch.randn(64, 8)
        >>> snn = convert.SignGD(steps=32).apply(ann, x)
        >>> bool((snn(x) - ann(x)).abs().max() < 0.01)
        True
        >>> [len(y) for y in snn(x, at=[8, 32])]
        [64, 64]

    Source: Oh & Lee, "Sign Gradient Descent-based Neuronal Dynamics: ANN-to-SNN Conversion Beyond
    ReLU Network", ICML 2024. Fitted reach, fitted schedules and whole-operator nodes are ours.
    """

    def __init__(
        self,
        steps: int = 16,
        schedule: Schedule | Sequence[float] | str = "auto",
        decompose: bool = False,
        make: Make | None = None,
        *,
        quantile: float = 1.0,
        margin: float | None = None,
        per: str = "auto",
        scale: float | str | None = None,
        samples: int = 256,
        search: bool = True,
        progress: bool = True,
    ) -> None:
        checked_count("steps", steps)
        checked_count("samples", samples)
        if isinstance(schedule, str) and schedule != "auto":
            raise ValueError(f"schedule: must be 'auto' or a schedule, got {schedule!r}")
        if per not in PER:
            raise ValueError(f"per: must be one of {', '.join(PER)}, got {per!r}")
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile: must lie in (0, 1], got {quantile}")
        if make is not None and not callable(make):
            raise TypeError(
                f"make: must be a function such as plugins.<host>.make, or None, got {make!r}"
            )
        for name, value in (("margin", margin), ("scale", scale)):
            if value is not None and value != "published" and not _is_positive(value):
                raise ValueError(f"{name}: must be positive and finite, got {value!r}")
        self.steps, self.decompose, self.make = steps, bool(decompose), make
        self.samples, self.search, self.progress = samples, bool(search), bool(progress)
        self.schedule = None if isinstance(schedule, str) else as_schedule(schedule)
        self.quantile, self.margin, self.per, self.scale = quantile, margin, per, scale

    def __repr__(self) -> str:
        """The arguments that are not the defaults."""
        own = {**vars(self), "schedule": "auto" if self.schedule is None else self.schedule}
        given = [
            f"{name}={own[name]!r}"
            for name, argument in inspect.signature(type(self)).parameters.items()
            if own[name] != argument.default
        ]
        return f"SignGD({', '.join(given)})"

    @property
    def is_given(self) -> bool:
        """Whether the user decided how far nodes reach."""
        return self.margin is not None or self.scale is not None or self.quantile != 1.0

    @in_step("model", "calibration")
    def apply(self, model: nn.Module, calibration: Any) -> SignGDNetwork:
        """The converted network, in evaluation mode; the model is left as it is.

        Args:
            model: A trained network. It is converted in evaluation mode.
            calibration: A tensor, or batches as tensors, tuples of positional arguments (a label
                behind them is left out) or dicts of keyword arguments. The first axis of tensors
                is the batch; other shapes must stay as in the first batch. With
                ``torch.distributed`` initialised, those of this process, maybe none; the network
                is that of one process with all of them, in the order of the ranks.

        Raises:
            NotImplementedError: If an operator is neither affine nor has a node; names every one.
            TypeError: If the model is no module, its control flow depends on values, or a batch
                is no batch.
            ValueError: If there is no batch, the model yields NaN, is affine throughout, or cannot
                be copied by torch; or if the processes of ``torch.distributed`` have different
                models, or samples of different shapes.
            RankFailed: If another process of ``torch.distributed`` failed.

        Warns:
            UserWarning: If the network has not settled after so many steps: half of the outputs'
                variance is lost on calibration data, and more steps are expected to help. If a
                given quantile, margin or scale leaves more than 1 % of a node's calibration values
                beyond its reach; or if there are several samples, all alike.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model: must be a torch.nn.Module, got {model!r}; call functions in the forward "
                f"of a module"
            )
        if isinstance(model, nn.parallel.DistributedDataParallel):
            raise TypeError("model: is a DistributedDataParallel; give what it wraps, model.module")
        check_unsharded_model(model)
        check_same_model(model)
        given = batches(model, calibration, progress=self.progress, required=not is_shared())
        first, _, calls = first_of_all("calibration", (c for c in given if _length(c) != 0))
        # What is made in inference mode could not be used outside of it.
        with torch.inference_mode(False), torch.no_grad():
            captured = capture(model, first)
            if self.decompose:
                decompose_operators(captured)
            plan = classify(captured.module.graph, joins=not self.decompose)
            own = [captured.flatten(call.args, call.kwargs) for call in calls]
            inputs = Calls(own, captured.flatten(first.args, first.kwargs))
            if inputs.are_alike():
                warnings.warn(
                    "calibration: its samples are all alike, so they do not show what the network "
                    "has to tell apart; give samples like the inputs that it will get",
                    stacklevel=3,
                )
            fit = Fit(self, captured, plan, inputs)
            network = fit.network()
            network.steps_needed = fit.steps_needed()
            network.measured = measured(
                network, fit.data, warns=self.is_given, is_fitted=self.schedule is None
            )
        return network.eval()


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0


def _length(call: Batch) -> int | None:
    """How many samples a call has; None if it has no tensor."""
    leaves = pytree.tree_leaves((call.args, call.kwargs))
    return next((len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()), None)
