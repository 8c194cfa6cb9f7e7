"""Ways in which a model of transformers is called later, beside those of the calibration batches.

Without a mask, or with a cache, a forward may run through other lines of its code. What is called
there has to be known, or a converted network would refuse it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import nn

from spikeloom.calibrate import Batch
from spikeloom.convert.las.layers import Activation
from spikeloom.convert.las.sites import Site

__all__ = ["explore"]

TOKENS = 3  # the first has no cache, the second one of two lengths, the third a grown one


def explore(network: nn.Module, call: Batch) -> None:
    """Call a network in its other ways while calibration records.

    What its sites saw so far stays what they know; only sites that are new observe.

    Args:
        network: In calibration.
        call: A batch of it.
    """
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(network, transformers.PreTrainedModel) or call.args:
        return
    bare = {name: value for name, value in call.kwargs.items() if "mask" not in name}
    with _others_alone(network), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kwargs in (call.kwargs, bare):
            _tried(network, kwargs)
            if network.can_generate():
                inputs = {k: v for k, v in kwargs.items() if not k.startswith("decoder_")}
                _tried(network.generate, {**inputs, "max_new_tokens": TOKENS, "do_sample": False})


def _tried(function: Any, kwargs: dict[str, Any]) -> None:
    # A way that the model itself does not know is none.
    with suppress(
        ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError
    ):
        function(**kwargs)


@contextmanager
def _others_alone(network: nn.Module) -> Iterator[None]:
    """Let only sites and tables observe that the block makes."""
    known = [module for module in network.modules() if isinstance(module, (Site, Activation))]
    for module in known:
        module.looks = False
    try:
        yield
    finally:
        for module in known:
            module.looks = True
