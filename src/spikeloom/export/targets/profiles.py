"""Targets: what each reader makes of a NIR node.

A reader may take a node as NIR means it, refuse it with an error, or silently compute
something else. The last is what an exporter has to prevent. The rules were found by giving files
to the readers named as checked, and by documentation for the others.
"""

from __future__ import annotations

from collections.abc import Callable

import nir
import numpy as np
import torch

from spikeloom.export.graph.dynamics import steps_per_tau
from spikeloom.export.graph.grids import bits_of_rows
from spikeloom.export.targets.profile import Profile, Rule
from spikeloom.kernel.neuron import Neuron
from spikeloom.neurons.leaky import Leaky
from spikeloom.neurons.lif import IF, LIF
from spikeloom.neurons.lif_box import LIFBox

__all__ = ["ONE_THRESHOLD", "PROFILES"]


def _not_uniform(name: str) -> Callable[[nir.NIRNode, float], bool]:
    return lambda node, dt: np.unique(getattr(node, name)).size > 1


def _not_all(name: str, value: float) -> Callable[[nir.NIRNode, float], bool]:
    return lambda node, dt: bool((np.asarray(getattr(node, name)) != value).any())


def _one_step(node: nir.NIRNode, dt: float) -> bool:
    return bool((steps_per_tau(node.tau, dt) <= 1.0).any())


def _r_is_not(node: nir.NIRNode, dt: float) -> bool:
    """Neither r = 1 nor r = tau / dt."""
    k = steps_per_tau(node.tau, dt)
    return not (np.allclose(node.r, 1.0) or np.allclose(node.r, k))


def _other_dt(node: nir.NIRNode, dt: float) -> bool:
    return dt != 1e-4


def _grouped(node: nir.NIRNode, dt: float) -> bool:
    return int(node.groups) != 1


def _beyond_8_bits(node: nir.NIRNode, dt: float) -> bool:
    return bits_of_rows(node.weight) is None


def _dilated(node: nir.NIRNode, dt: float) -> bool:
    return bool((np.atleast_1d(node.dilation) != 1).any())


def _biased(node: nir.NIRNode, dt: float) -> bool:
    return bool(np.any(node.bias))


def _one(array: np.ndarray) -> float:
    return float(array.flat[0])


def _as_spikingjelly(node: nir.LIF | nir.IF, dt: float) -> Neuron:
    if isinstance(node, nir.IF):
        return IF(_one(node.v_threshold))
    return LIF(_one(node.tau) / dt, _one(node.v_threshold))


def _as_snntorch(node: nir.LIF | nir.IF, dt: float) -> Neuron:
    share = np.float32(dt) / node.tau.astype(np.float32)
    return Leaky(_one(1 - share), _one(node.v_threshold / share), reset_mechanism="zero")


def _as_norse(node: nir.LIF | nir.IF, dt: float) -> Neuron:
    threshold = torch.from_numpy(node.v_threshold)
    if isinstance(node, nir.IF):
        return IF(threshold, fires_at_threshold=False)
    return LIFBox(1 / torch.from_numpy(node.tau), v_th=threshold, dt=dt)


CONVS = (nir.Conv1d, nir.Conv2d)
FIRES = (nir.LIF, nir.IF, nir.CubaLIF)
# What every reader takes.
DENSE = frozenset((nir.Input, nir.Output, nir.Affine))

ONE_THRESHOLD = Rule(
    FIRES, _not_uniform("v_threshold"), "its thresholds differ", "use one threshold for the layer"
)
ZERO_RESET = Rule(
    FIRES,
    _not_all("v_reset", 0.0),
    "its v_reset is not 0, which the reader ignores",
    "use v_reset = 0",
    silent=True,
)
UNIT_R = Rule(
    (nir.LIF,),
    _not_all("r", 1.0),
    "its r is not 1, which the reader ignores",
    "use r = 1",
    silent=True,
)
NO_GROUPS = Rule(CONVS, _grouped, "it has groups", "use groups=1")
LEAKY = (nir.LIF, nir.CubaLIF)
REST_AT_ZERO = Rule(LEAKY, _not_all("v_leak", 0.0), "its v_leak is not 0", "use v_leak = 0")


def _cuba_unit(node: nir.CubaLIF | nir.CubaLI, dt: float) -> bool:
    """Its resistances are not those that make plain sums of decays."""
    return not (
        np.allclose(node.r, node.tau_mem / dt) and np.allclose(node.w_in, node.tau_syn / dt)
    )


CUBA_UNIT = Rule(
    (nir.CubaLIF,),
    _cuba_unit,
    "its r is not tau_mem / dt, or its w_in not tau_syn / dt",
    "use these, and thresholds in their unit",
)

SNNTORCH = Profile(
    "snntorch",
    DENSE.union((nir.Linear, nir.Conv2d, nir.AvgPool2d, nir.Flatten, nir.IF, nir.LIF, nir.CubaLIF)),
    (
        ONE_THRESHOLD,
        ZERO_RESET,
        REST_AT_ZERO,
        Rule(
            (nir.LIF,),
            _not_uniform("tau"),
            "its time constants differ, and the reader takes the first for all",
            "use one time constant for the layer",
            silent=True,
        ),
        CUBA_UNIT,
        Rule(LEAKY, _other_dt, "the reader's time step is always 1e-4 s", "use dt=1e-4"),
        Rule(
            (nir.IF,),
            lambda node, dt: bool((np.asarray(node.r) == 1.0).all()),
            "the reader gives IF with r = 1 a leak",
            "use a LIF",
            silent=True,
        ),
        Rule((nir.IF,), _not_all("r", 1.0), "the reader takes IF with r = 1 only", "use a LIF"),
    ),
    "checked with snnTorch 1.0.0",
    _as_snntorch,
    reads_edges_back=False,  # its call ends in an AttributeError of nirtorch 2.6
)
NORSE = Profile(
    "norse",
    DENSE.union((nir.Linear, nir.Conv2d, nir.Flatten, nir.SumPool2d, nir.IF, nir.LIF, nir.CubaLIF)),
    (
        ZERO_RESET,
        UNIT_R,
        Rule(
            (nir.CubaLIF,),
            _not_all("v_leak", 0.0),
            "its v_leak is not 0, to which the reader lets the current decay too",
            "use v_leak = 0",
            silent=True,
        ),
        Rule(
            (nir.IF,),
            lambda node, dt: not np.allclose(np.asarray(node.r) * dt, 1.0),
            "its r dt is not 1, which the reader ignores",
            "use r = 1 / dt",
            silent=True,
        ),
    ),
    "checked with Norse 1.1.0",
    _as_norse,
    runs_depth_first=True,
)
SPIKINGJELLY = Profile(
    "spikingjelly",
    DENSE.union((nir.Linear, *CONVS, nir.AvgPool2d, nir.Flatten, nir.IF, nir.LIF, nir.CubaLIF)),
    (
        ONE_THRESHOLD,
        NO_GROUPS,
        Rule((nir.LIF,), _not_uniform("tau"), "its time constants differ", "use one for the layer"),
        Rule(
            (nir.CubaLIF,),
            lambda node, dt: max(np.unique(node.tau_mem).size, np.unique(node.tau_syn).size) > 1,
            "its time constants differ",
            "use one for the layer",
        ),
        CUBA_UNIT,
        Rule((nir.CubaLIF,), _not_all("v_leak", 0.0), "its v_leak is not 0", "use v_leak = 0"),
        Rule((nir.LIF,), _one_step, "its tau is one step", "use tau > dt"),
        Rule((nir.LIF,), _r_is_not, "its r is neither 1 nor tau / dt", "use r = 1"),
        Rule(
            (nir.LIF,),
            lambda node, dt: not np.allclose(node.v_leak, node.v_reset),
            "its v_leak is not its v_reset",
            "use v_leak = v_reset = 0",
        ),
        Rule(
            (nir.IF,),
            lambda node, dt: not np.allclose(np.asarray(node.r) * dt, 1.0),
            "its r is not 1 / dt",
            "use r = 1 / dt",
        ),
    ),
    "checked with SpikingJelly 2.0.0",
    _as_spikingjelly,
    fires_at_threshold=True,
)
SINABS = Profile(
    "sinabs",
    DENSE.union((nir.Conv2d, nir.SumPool2d, nir.Flatten, nir.IF, nir.LIF, nir.LI)),
    (
        Rule((nir.LI,), _not_all("r", 1.0), "its r is not 1", "use r = 1"),
        Rule(
            (nir.LI,),
            lambda node, dt: True,
            "the reader takes tau in steps and decays exponentially",
            "no leaky integrator reaches sinabs unchanged",
            silent=True,
        ),
        Rule(
            (nir.SumPool2d,),
            lambda node, dt: bool(np.any(node.padding)),
            "the reader ignores its padding",
            "use padding=0",
            silent=True,
        ),
        Rule(
            (nir.LIF,),
            lambda node, dt: True,
            "the reader takes tau in steps, fires several times a step and resets by subtraction",
            "no hard-reset neuron reaches sinabs unchanged",
            silent=True,
        ),
        Rule(
            (nir.IF,),
            lambda node, dt: True,
            "the reader fires several times a step and resets by subtraction",
            "no hard-reset neuron reaches sinabs unchanged",
            silent=True,
        ),
    ),
    "checked with sinabs 3.1.3, by tests that run where it is installed",
    runs_depth_first=True,
)
ROCKPOOL = Profile(
    "rockpool",
    DENSE.union((nir.Linear, nir.CubaLIF, nir.LI)),
    (),
    "observed with rockpool 3.1.0, not tested here",
    runs_depth_first=True,
)
SPYX = Profile(
    "spyx",
    DENSE.union((nir.Linear, nir.Conv2d, nir.Flatten, nir.IF, nir.LIF, nir.CubaLIF)),
    (
        Rule(
            (nir.IF, nir.LIF),
            lambda node, dt: True,
            "the reader fires one step late and resets by subtraction",
            "no hard-reset neuron reaches spyx unchanged",
            silent=True,
        ),
    ),
    "observed with spyx 1.0.0, not tested here",
)
LAVA = Profile(
    "lava",
    DENSE.union((nir.Linear, nir.Conv2d, nir.Flatten, nir.SumPool2d, nir.IF, nir.LIF, nir.CubaLIF)),
    (
        ZERO_RESET,
        Rule((nir.Affine, *CONVS), _biased, "it has a bias", "train without bias and BatchNorm"),
        Rule(
            (nir.Affine, nir.Linear, *CONVS),
            _beyond_8_bits,
            "its rows lie on no grid of 8 bits, which is what a chip's weights have",
            "use compress.quantize(model, stats, bits=8)",
        ),
    ),
)
SPINNAKER2 = Profile(
    "spinnaker2",
    DENSE.union((nir.Linear, nir.Conv2d, nir.SumPool2d, nir.Flatten, nir.IF, nir.LIF, nir.CubaLIF)),
    (
        Rule((nir.Affine, *CONVS), _biased, "it has a bias", "train without bias and BatchNorm"),
        NO_GROUPS,
    ),
)
SNN_MLIR = Profile(
    "snn-mlir",
    DENSE.union(
        (
            nir.Linear,
            *CONVS,
            nir.SumPool2d,
            nir.AvgPool2d,
            nir.Flatten,
            nir.IF,
            nir.LIF,
            nir.CubaLIF,
            nir.LI,
            nir.CubaLI,
        )
    ),
    (
        ONE_THRESHOLD,
        NO_GROUPS,
        Rule(CONVS, _dilated, "it is dilated", "use dilation=1"),
        Rule(FIRES, _not_all("v_reset", 0.0), "its v_reset is not 0", "use v_reset = 0"),
        Rule((*LEAKY, nir.LI), _not_all("v_leak", 0.0), "its v_leak is not 0", "use v_leak = 0"),
        Rule(
            (nir.LIF, nir.LI),
            lambda node, dt: np.unique(node.tau).size > 1,
            "its time constants differ",
            "use one for the layer",
        ),
        Rule(
            (nir.CubaLIF, nir.CubaLI),
            lambda node, dt: max(np.unique(node.tau_mem).size, np.unique(node.tau_syn).size) > 1,
            "its time constants differ",
            "use one for the layer",
        ),
        Rule(
            (nir.LIF, nir.LI),
            lambda node, dt: not np.allclose(node.r, steps_per_tau(node.tau, dt)),
            "its r is not tau / dt, which the reader takes for the time step",
            "use a neuron that fires, and whose potential is in any unit",
            silent=True,
        ),
        Rule(
            (nir.CubaLIF, nir.CubaLI),
            _cuba_unit,
            "its r is not tau_mem / dt, or its w_in not tau_syn / dt",
            "use a neuron that fires, and whose potential is in any unit",
            silent=True,
        ),
        Rule((nir.IF,), _not_all("r", 1.0), "its r is not 1", "use dt=1"),
    ),
    "checked with snn-mlir 1.0.0, by tests that run where it is installed",
    wants_whole_inputs=True,
    reads_edges_back=False,
)
NIR = Profile("nir", None, (), "checked with spikeloom.export.run_nir")
PORTABLE = Profile(
    "portable",
    None,
    checked="checked with SpikingJelly 2.0.0, snnTorch 1.0.0 and Norse 1.1.0",
    members=("spikingjelly", "snntorch", "norse"),
)

_HOSTS = (SPIKINGJELLY, SNNTORCH, NORSE)
_ALL = (PORTABLE, NIR, *_HOSTS, SINABS, ROCKPOOL, SPYX, LAVA, SPINNAKER2, SNN_MLIR)
PROFILES = {profile.name: profile for profile in _ALL}
