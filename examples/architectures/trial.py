"""What becomes of a type of transformers under LAS, found in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import transformers

from architectures.small import NotBuilt, answer, batch_for, built, first_line
from spikeloom.convert import LAS

__all__ = ["STATES", "Row", "tried"]

STEPS, MORE_STEPS = 8, 12
CLOSE = 0.02  # relative L2 error at 8 steps
LIMIT = 120  # seconds for a type
MEMORY = 4 << 30
STATES = ("converted", "coarse", "saturated", "refused", "WRONG", "not built")
# Imported once, before a process is made for each type.
COMMON = ("BertModel", "LlamaForCausalLM", "T5Model", "ViTModel", "CLIPModel", "Wav2Vec2Model")


class Row(NamedTuple):
    """A row of the table.

    A model that is more than 0.02 off at 8 steps is "coarse" if its error falls to a quarter at
    least at 12, "saturated" if the network warned that values lie beyond its ranges, else "WRONG".
    """

    kind: str
    state: str
    model: str = ""
    detail: str = ""


def tried(kinds: list[str]) -> Iterator[Row]:
    """What becomes of each type.

    Args:
        kinds: Model types.
    """
    for name in COMMON:
        getattr(transformers, name)
    context = multiprocessing.get_context("fork")
    for kind in kinds:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_send, args=(kind, there))
        process.start()
        there.close()
        try:
            found = here.recv() if here.poll(LIMIT) else None
            yield found or Row(kind, "not built", "", f"no answer in {LIMIT} s")
        except EOFError:
            yield Row(kind, "not built", "", "the process ended")
        finally:
            process.kill()
            process.join()


def _send(kind: str, there: Any) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    there.send(_tried(kind))


def _tried(kind: str) -> Row:
    try:
        model, with_images = built(kind)
    except NotBuilt as reason:
        return Row(kind, "not built", "", str(reason))
    name = type(model).__name__
    batches = [batch_for(model, seed, with_images) for seed in (0, 2, 4)]
    unseen = batch_for(model, 1, with_images)
    with torch.no_grad():
        wanted = answer(model(**unseen))
    errors: list[float] = []
    for steps in (STEPS, MORE_STEPS):
        try:
            network = LAS(steps=steps, progress=False).apply(model, batches)
            with torch.no_grad(), warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                found = answer(network(**unseen))
        except (TypeError, ValueError) as error:
            return Row(kind, "refused", name, first_line(error))
        except (MemoryError, RuntimeError) as error:
            if "allocate memory" in str(error):
                return Row(kind, "not built", name, "too little memory")
            return Row(kind, "WRONG", name, f"{type(error).__name__}: {first_line(error)}")
        except Exception as error:
            return Row(kind, "WRONG", name, f"{type(error).__name__}: {first_line(error)}")
        errors.append(float((found - wanted).norm() / wanted.norm()))
        if errors[-1] <= CLOSE:
            break
    detail = f"{errors[0]:.4f}" + "".join(f", {e:.4f} at 12 steps" for e in errors[1:])
    if with_images and "pixel_values" in unseen and "input_ids" in unseen:
        detail += ", texts with images"
    saturates = any("saturate" in str(warning.message) for warning in said)
    return Row(kind, _state(errors, saturates), name, detail)


def _state(errors: list[float], saturates: bool) -> str:
    if errors[0] <= CLOSE:
        return "converted"
    if errors[-1] <= errors[0] / 4:
        return "coarse"
    return "saturated" if saturates else "WRONG"
