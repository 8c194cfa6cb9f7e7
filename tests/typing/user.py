"""A user's program: every public name, as a type checker sees it; never run.

``mypy --strict`` must accept it. The functions show that calls have the types that users expect;
the list below names what no function uses.
"""

from pathlib import Path
from typing import Any, assert_type

import torch
from torch import Tensor

import spikeloom
from spikeloom import (
    calibrate,
    compress,
    convert,
    export,
    hosted,
    models,
    modules,
    neurons,
    nn,
    observe,
    pictures,
    plugins,
    sweep,
    verify,
)
from spikeloom.inspection import inspect
from spikeloom.kernel import vocabulary
from spikeloom.layer import as_vectors, current_parameters, register_parameters
from spikeloom.neurons import surrogate
from spikeloom.report import Report
from spikeloom.timing import time_layer


def my_step(x: Any, state: Any, p: Any) -> Any:
    """A neuron of the user's own."""
    (v,) = state
    h = v + (x - v) / p.tau
    s = vocabulary.fire(h - 1.0, surrogate.ATan())
    return s, ((1.0 - s) * h,)


def run_a_neuron(x: Tensor) -> Tensor:
    neuron = spikeloom.Neuron(my_step, params={"tau": 2.0})
    spikes: Tensor
    spikes, state = spikeloom.run(neuron, x)
    assert_type(state, tuple[Tensor, ...])
    _, _, potentials = spikeloom.run(neuron, x, record="v")
    assert_type(potentials, Tensor)
    assert_type(spikeloom.source(neurons.LIF(tau=2.0)), str)
    return spikes


def train(x: Tensor) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), spikeloom.SpikingLayer(neurons.LIF()))
    nn.event_driven(net)
    optimizer = torch.optim.Adam(as_vectors(net).parameters())
    net(x).sum().backward()
    optimizer.step()


def convert_and_compress(model: torch.nn.Module, x: Tensor) -> None:
    snn = convert.LAS(steps=8, target_sqnr=40.0).apply(model, [x])
    assert_type(snn, torch.nn.Module)
    signgd = convert.SignGD(steps=16).apply(model, x)
    assert_type(signgd.report, Report)
    curves = convert.sweep_steps(convert.SignGD, model, x, x, steps=(4, 8))
    curves.plot(path="curves.png")
    stats = compress.calibrate(model, [x])
    assert_type(stats, compress.Statistics)
    assert_type(compress.prune(model, stats, 0.5), Report)
    assert_type(compress.quantize(model, stats, bits=4), Report)
    assert_type(compress.finish(model), torch.nn.Module)


def prove_and_exchange(model: torch.nn.Module, x: Tensor) -> None:
    proof = verify.check_mfi(verify.fold_norms(model), x)
    assert_type(proof.ok, bool)
    energy = verify.count_energy(model, x, costs=verify.EnergyCosts(mac=4.6))
    assert_type(energy.accumulates, float)
    graph, report = export.to_nir(model, x, path=Path("net.nir"))
    assert_type(report, export.ExportReport)
    assert_type(report.mismatch, float)
    again = export.from_nir(graph, make=plugins.norse.make)
    assert_type(again, export.Network)
    assert_type(verify.compare(model, again, x).ok, bool)
    assert_type(export.run_nir(export.read("net.nir"), x), Tensor)
    print(export.describe(graph).to_markdown(), inspect("net.nir"))


def look(report: Report, spikes: Tensor) -> None:
    assert_type(report.to_csv(), str)
    assert_type(report.column("layer"), list[Any])
    report.save("report.json")
    pictures.raster({"hidden": spikes}, "raster.png", title="Spikes")
    print(spikeloom.doctor(), time_layer(neurons.LIF(), steps=4))


class Hosted(torch.nn.Module):
    """A layer of the user's own."""

    def __init__(self, neuron: spikeloom.Neuron) -> None:
        super().__init__()
        self.neuron = neuron
        register_parameters(self, neuron)

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor
        spikes, _ = spikeloom.run(self.neuron, x, params=current_parameters(self, self.neuron))
        return spikes


EVERY_NAME: tuple[object, ...] = (
    spikeloom.Gated,
    spikeloom.Neuron,
    spikeloom.PerStep,
    spikeloom.Recurrent,
    spikeloom.SpikingLayer,
    spikeloom.doctor,
    spikeloom.event_driven,
    spikeloom.neurons,
    spikeloom.nn,
    spikeloom.pack_saved,
    spikeloom.run,
    spikeloom.source,
    vocabulary.Surrogate,
    vocabulary.absolute,
    vocabulary.clamp,
    vocabulary.detach,
    vocabulary.erf,
    vocabulary.exp,
    vocabulary.fire,
    vocabulary.floor,
    vocabulary.log,
    vocabulary.lookup,
    vocabulary.maximum,
    vocabulary.minimum,
    vocabulary.relu,
    vocabulary.rint,
    vocabulary.sigmoid,
    vocabulary.sign,
    vocabulary.sqrt,
    vocabulary.tanh,
    vocabulary.where,
    vocabulary.with_grad,
    vocabulary.with_nan,
    neurons.ALIF,
    neurons.CurrentLIF,
    neurons.EIF,
    neurons.HG,
    neurons.IAF,
    neurons.IF,
    neurons.KLIF,
    neurons.LI,
    neurons.LIAF,
    neurons.LIF,
    neurons.OAT,
    neurons.QIF,
    neurons.AdEx,
    neurons.Alpha,
    neurons.AnalogEncoder,
    neurons.Constant,
    neurons.CubaLI,
    neurons.CubaLIF,
    neurons.ElasticBiSpike,
    neurons.Exponential,
    neurons.FewSpike,
    neurons.Inverse,
    neurons.Izhikevich,
    neurons.LIFBox,
    neurons.Lapicque,
    neurons.Leaky,
    neurons.LinearHG,
    neurons.ParametricLIF,
    neurons.Reduced,
    neurons.SignGD,
    neurons.SignGDBits,
    neurons.SignTracker,
    neurons.Synaptic,
    neurons.Trace,
    neurons.draw_hg,
    neurons.fit_hg,
    neurons.fit_reduced,
    neurons.surrogate,
    surrogate.ATan,
    surrogate.Erf,
    surrogate.FastSigmoid,
    surrogate.PiecewiseExp,
    surrogate.PiecewiseQuadratic,
    surrogate.Rect,
    surrogate.Sigmoid,
    surrogate.SoftSign,
    surrogate.StraightThrough,
    surrogate.SuperSpike,
    surrogate.Triangle,
    nn.Recurrent,
    nn.SpikeConv1d,
    nn.SpikeConv2d,
    nn.SpikeLinear,
    nn.dense,
    nn.event_driven,
    nn.pack_saved,
    nn.unpack_saved,
    observe.EVERY,
    observe.Effect,
    observe.Operation,
    observe.meaning_of,
    observe.register,
    models.SpikingMLP,
    convert.LAS,
    convert.BiSpikes,
    convert.SignGD,
    convert.SpikeLM,
    convert.las_folder,
    convert.load_las,
    convert.measure_amplitude,
    convert.merge_amplitude,
    convert.set_form,
    convert.sweep_steps,
    compress.Response,
    compress.Statistics,
    compress.Sweep,
    compress.UnknownNeuron,
    compress.allocate,
    compress.calibrate,
    compress.finish,
    compress.layer_hessian,
    compress.linear_response,
    compress.load_compressed,
    compress.osbc_folder,
    compress.prune,
    compress.prune_weight,
    compress.quadratic_error,
    compress.quantize,
    compress.quantize_weight,
    compress.reset_states,
    compress.sweep_bits,
    compress.sweep_sparsity,
    verify.ComparisonReport,
    verify.EnergyCosts,
    verify.Isometry,
    verify.check_mfi,
    verify.compare,
    verify.count_energy,
    verify.fold_norms,
    verify.measure_isometry,
    export.PROFILES,
    export.ExportReport,
    export.Network,
    export.NotExpressible,
    export.Offence,
    export.Verdict,
    export.describe,
    export.draw,
    export.from_nir,
    export.read,
    export.run_nir,
    export.to_nir,
    export.write,
    hosted.Make,
    hosted.copied,
    hosted.made,
    hosted.output_of,
    hosted.spikes_from_rest,
    hosted.to_rest,
    modules.Circuit,
    modules.Conventions,
    modules.Framework,
    modules.base_of,
    modules.carried,
    modules.circuit_of,
    modules.conventions_of,
    modules.described_classes,
    modules.framework_of,
    modules.frameworks,
    modules.is_describable,
    modules.is_neuron,
    modules.linear_of,
    modules.methods_of,
    modules.named_as,
    modules.neuron_of,
    modules.neuron_within,
    modules.override_of,
    modules.register,
    modules.register_framework,
    modules.registered,
    modules.response_of,
    modules.takes_steps,
    modules.undescribed,
    modules.values_of,
    modules.watched_calls,
    modules.why_unlike,
    modules.why_unregistered,
    calibrate.Batch,
    calibrate.arguments_of,
    calibrate.batch_quantile,
    calibrate.batches,
    calibrate.each_batch,
    sweep.Sweep,
    plugins.Component,
    plugins.NoCounterpart,
    plugins.Unmatched,
    plugins.components,
    plugins.hosts,
    plugins.spikingjelly.ALIFNode,
    plugins.spikingjelly.CUBALIFNode,
    plugins.spikingjelly.EIFNode,
    plugins.spikingjelly.ElasticBiSpikeNode,
    plugins.spikingjelly.HGNode,
    plugins.spikingjelly.IFNode,
    plugins.spikingjelly.IzhikevichNode,
    plugins.spikingjelly.KLIFNode,
    plugins.spikingjelly.LASRecipe,
    plugins.spikingjelly.LIAFNode,
    plugins.spikingjelly.LIFNode,
    plugins.spikingjelly.LinearRecurrentContainer,
    plugins.spikingjelly.OATNode,
    plugins.spikingjelly.ParametricLIFNode,
    plugins.spikingjelly.QIFNode,
    plugins.spikingjelly.SignGDNode,
    plugins.spikingjelly.SignGDRecipe,
    plugins.spikingjelly.SignedSpikeCompressor,
    plugins.spikingjelly.SimpleLIFNode,
    plugins.spikingjelly.SpikeloomNode,
    plugins.spikingjelly.SteppedSignGD,
    plugins.spikingjelly.export_to_nir,
    plugins.spikingjelly.few_spike_tables,
    plugins.spikingjelly.make,
    plugins.spikingjelly.signed_rules,
    plugins.spikingjelly.to_host,
    plugins.snntorch.ALIF,
    plugins.snntorch.HG,
    plugins.snntorch.OAT,
    plugins.snntorch.Alpha,
    plugins.snntorch.ElasticBiSpike,
    plugins.snntorch.Lapicque,
    plugins.snntorch.Leaky,
    plugins.snntorch.RLeaky,
    plugins.snntorch.SignGD,
    plugins.snntorch.SpikingModule,
    plugins.snntorch.Synaptic,
    plugins.snntorch.export_to_nir,
    plugins.snntorch.make,
    plugins.snntorch.reset,
    plugins.snntorch.to_host,
    plugins.norse.ALIF,
    plugins.norse.HG,
    plugins.norse.IAF,
    plugins.norse.LI,
    plugins.norse.LIF,
    plugins.norse.LIFRecurrent,
    plugins.norse.LIFRecurrentCell,
    plugins.norse.OAT,
    plugins.norse.ALIFCell,
    plugins.norse.ElasticBiSpike,
    plugins.norse.ElasticBiSpikeCell,
    plugins.norse.HGCell,
    plugins.norse.IAFCell,
    plugins.norse.LIBox,
    plugins.norse.LIBoxCell,
    plugins.norse.LICell,
    plugins.norse.LIFAdEx,
    plugins.norse.LIFAdExCell,
    plugins.norse.LIFBox,
    plugins.norse.LIFBoxCell,
    plugins.norse.LIFCell,
    plugins.norse.OATCell,
    plugins.norse.SignGD,
    plugins.norse.SignGDCell,
    plugins.norse.SpikeloomCell,
    plugins.norse.SpikeloomSequence,
    plugins.norse.lif_box_feed_forward_step,
    plugins.norse.magnitude_accumulator,
    plugins.norse.make,
    plugins.norse.make_cell,
    plugins.norse.to_host,
    plugins.norse.to_nir,
)
