"""SpikeLM: language models whose every encoder product takes ternary spikes."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

import torch
from torch import nn

from spikeloom.adapters import check_merged
from spikeloom.agreement import check_unsharded_model
from spikeloom.calibrate import batches
from spikeloom.convert.checkpoint import load_weights
from spikeloom.convert.spikelm.amplitude import RULES, BiSpikes, check_rule
from spikeloom.convert.spikelm.blocks import (
    ARCHITECTURES,
    Fold,
    FoldedSpikes,
    reorder_cache,
    spike_stack,
)
from spikeloom.convert.spikelm.merge import merge_amplitude
from spikeloom.hosted import Make, copied
from spikeloom.layer import SpikingLayer
from spikeloom.neurons.elastic import ElasticBiSpike
from spikeloom.report import Report

__all__ = ["SpikeLM"]


@dataclass(frozen=True)
class SpikeLM:
    r"""Puts elastic bi-spiking neurons into a Hugging Face transformer, ready to train.

    Every weight layer of every block gets spikes: a neuron with a membrane before it, one for
    queries, keys and values together, because they see the same input and would fire alike; and a
    stateless quantiser on the keys and on the values. Queries, attention probabilities, softmax,
    normalisation, activation functions, the residual stream, embeddings and heads stay as they
    are. Embeddings are repeated over T steps before the first block, and the last block's output
    is averaged over them.

    Published for BERT. RoBERTa is the same architecture. **GPT-2, OPT and BART are our design**,
    by analogy: what was said about BART in the paper came without code.

    Args:
        steps: T. With one step the membrane does nothing: a BERT with ternary activations.
        k: Amplitude per mean magnitude; larger fires less. 2 is published.
        amplitude: What sets the amplitudes: ``"first_batch"`` (published), ``"moving_average"``,
            ``"learned"``, or a number that stays. See :class:`~spikeloom.convert.BiSpikes`.
        reset: ``"released"`` or ``"symmetric"``, see
            :class:`~spikeloom.neurons.ElasticBiSpike`.
        decay: Leak of the membrane.
        per_step: An amplitude for each step (published), or one for all, which
            :func:`~spikeloom.convert.merge_amplitude` can fold into the weights for good.
        momentum: Of the moving average.
        grad_scale: Scale the gradients of learned amplitudes, as published.
        make: Makes the modules that run the neurons, such as ``plugins.<host>.make``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertModel
        >>> from spikeloom import convert
        >>> size = dict(hidden_size=16, num_attention_heads=2, intermediate_size=32)
        >>> model = BertModel(BertConfig(vocab_size=50, num_hidden_layers=1, **size))
        >>> snn = convert.SpikeLM(steps=4).apply(model)
        >>> snn(torch.randint(50, (2, 7))).last_hidden_state.shape
        torch.Size([2, 7, 16])
        >>> print(snn.report)
        SpikeLM, 4 steps
        module                                  spikes on                       neuron
        --------------------------------------  ------------------------------  ---------
        encoder.layer.0.attention.self          the input of query, key, value  membrane
        encoder.layer.0.attention.self.key      its output                      stateless
        encoder.layer.0.attention.self.value    its output                      stateless
        encoder.layer.0.attention.output.dense  its input                       membrane
        encoder.layer.0.intermediate.dense      its input                       membrane
        encoder.layer.0.output.dense            its input                       membrane

    Source: Xing et al., "SpikeLM: Towards General Spike-Driven Language Modeling via Elastic
    Bi-Spiking Mechanisms", ICML 2024, and the authors' code.
    """

    steps: int = 4
    k: float = 2.0
    amplitude: str | float = "first_batch"
    reset: str = "released"
    decay: float = 0.25
    per_step: bool = True
    momentum: float = 0.1
    grad_scale: bool = True
    make: Make = SpikingLayer

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps: must be a whole number of at least 1, got {self.steps!r}")
        if isinstance(self.amplitude, bool) or not isinstance(self.amplitude, (str, Real)):
            raise ValueError(
                f"amplitude: must be a number or one of {RULES}, got {self.amplitude!r}"
            )
        check_rule(self.k, self._rule, self.momentum)
        self._neuron(stateless=False)  # which checks the rest

    @property
    def _rule(self) -> str:
        return self.amplitude if isinstance(self.amplitude, str) else "fixed"

    def _neuron(self, stateless: bool) -> ElasticBiSpike:
        start = 1.0 if isinstance(self.amplitude, str) else float(self.amplitude)
        alpha = torch.full((self.steps,) if self.per_step else (), start)
        if self.amplitude == "learned":
            alpha = nn.Parameter(alpha)
        decay = 0.0 if stateless else self.decay
        return ElasticBiSpike(alpha, decay, self.reset, grad_scale=self.grad_scale)

    def _spikes(self, stateless: bool, fold: Fold, feeds: tuple[str, ...]) -> FoldedSpikes:
        return FoldedSpikes(
            self._neuron(stateless),
            fold,
            feeds,
            k=self.k,
            rule=self._rule,
            momentum=self.momentum,
            make=self.make,
        )

    @torch.inference_mode(False)  # in which nothing could be trained
    def apply(self, model: nn.Module, calibration: Any = None) -> Any:
        """A spiking copy of a model; its class, its weights and their names are the model's own.

        It is called, trained and saved as the model is. Hidden states of inner blocks and
        attention maps, where asked for, have time folded into their batch axis.

        Args:
            model: A Hugging Face model of a supported architecture, with any head.
            calibration: Batches whose mean sets the amplitudes: token numbers, or dicts as
                tokenizers make them (:func:`spikeloom.calibrate.arguments_of`). Without them the
                first batch that the model sees does.

        Returns:
            The copy, with the sites as its ``report``. Every module is in the mode that it had, the
            sites in that of the model.

        Raises:
            TypeError: If ``make`` makes no modules, or a batch is no batch.
            ValueError: If the architecture is not supported, skips blocks while training, is
                spiking already, has adapters of PEFT that are not merged, or has cross-attention
                outside BART; if calibration data are all padding or all zero.
        """
        check_merged(model)
        check_unsharded_model(model)
        stacks = _stacks(model)
        snn: Any = copied("model", model)
        own = set(snn.modules())
        base = getattr(snn, "base_model", snn)
        report = Report(f"SpikeLM, {self.steps} steps", ("module", "spikes on", "neuron"))
        source: Fold | None = None
        for stack in stacks:
            source, placed = spike_stack(base, stack, self.steps, self._spikes, source)
            for site in placed:
                report.add(site.name, site.on, site.neuron)
        if hasattr(snn, "generate"):
            # What beam search calls, instead of the cache's own, which knows no time.
            snn._reorder_cache = functools.partial(reorder_cache, self.steps)
        snn.config.spikelm = self.settings()
        device = next(model.parameters()).device
        for module in set(snn.modules()) - own:
            module.training = model.training
        snn.to(device)
        snn.report = report
        if calibration is not None:
            _calibrate(snn, calibration)
        return snn

    def settings(self) -> dict[str, Any]:
        """The arguments, but for ``make``: what a saved model's configuration says."""
        names = [entry.name for entry in fields(self) if entry.name != "make"]
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str], make: Make = SpikingLayer) -> Any:
        """Load a spiking model that ``save_pretrained`` has written, also a merged one.

        In eval mode, and in the dtype that it was saved in.

        Args:
            directory: Where it was saved.
            make: As for :class:`SpikeLM`; it is not saved.

        Raises:
            ValueError: If it holds no SpikeLM model, or weights of another.
        """
        import transformers

        config = transformers.AutoConfig.from_pretrained(directory)
        if not (settings := dict(getattr(config, "spikelm", ()))):
            raise ValueError(f"directory: {directory} holds no model that SpikeLM has converted")
        is_merged = settings.pop("merged", False)
        (name,) = config.architectures
        snn = cls(**settings, make=make).apply(getattr(transformers, name)(config))
        if is_merged:
            snn = merge_amplitude(_as_if_set(snn))
        if config.dtype is not None:
            snn.to(config.dtype)
        load_weights(snn, directory)
        return snn.eval()


def _stacks(model: nn.Module) -> Any:
    """The architecture's stacks, if this model can be converted."""
    config: Any = getattr(model, "config", None)
    kind = getattr(config, "model_type", type(model).__name__)
    if kind not in ARCHITECTURES:
        raise ValueError(
            f"model: SpikeLM knows {', '.join(ARCHITECTURES)}, got {kind!r}; for another "
            f"architecture put spikeloom.convert.BiSpikes before its weight layers"
        )
    if any(isinstance(module, BiSpikes) for module in model.modules()):
        raise ValueError("model: has bi-spiking neurons already; convert the original")
    if getattr(config, "add_cross_attention", False):
        raise ValueError(f"model: SpikeLM has no rule for cross-attention in {kind!r}")
    for stack in ARCHITECTURES[kind]:
        if skipped := getattr(config, stack.layerdrop or "-", 0.0):
            raise ValueError(
                f"model: its configuration skips blocks ({stack.layerdrop}={skipped}), among them "
                f"those where time begins and ends; set it to 0"
            )
    return ARCHITECTURES[kind]


def _as_if_set(snn: nn.Module) -> nn.Module:
    """A model whose amplitudes are about to be loaded."""
    for module in snn.modules():
        if isinstance(module, BiSpikes):
            module.batches.fill_(1)
    return snn


@torch.no_grad()
def _calibrate(snn: nn.Module, data: Any) -> None:
    """Average the amplitudes over batches, each measured with those found so far."""
    sites = [module for module in snn.modules() if isinstance(module, BiSpikes)]
    training = [module for module in snn.modules() if module.training]
    for site in sites:
        site.averaged = 0
    snn.eval()
    try:
        for batch in batches(snn, data):
            snn(*batch.args, **batch.kwargs)
    finally:
        for site in sites:
            site.averaged = None
        for module in training:
            module.training = True
