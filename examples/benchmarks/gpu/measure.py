"""How times are taken on a GPU, and how they are kept: written after every line."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from spikeloom.files import write_text

Calls = dict[str, Callable[[], object]]

# Rounds in which candidates take turns, and milliseconds that a turn should take at least, so that
# the events' own resolution does not matter.
ROUNDS = 7
LEAST_MS = 2.0


class Notes:
    """Rows of results; the file is whole after each of them, so a time limit loses nothing.

    Args:
        path: The JSON file.
        seconds: How long the work may take.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.rows: list[dict[str, Any]] = []
        self._path = path
        self._end = time.perf_counter() + seconds

    def add(self, **row: Any) -> None:
        """Print a row and write all of them."""
        self.rows.append(row)
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        write_text(self._path, json.dumps(self.rows, indent=0) + "\n")

    def left(self) -> float:
        """Seconds that are left."""
        return self._end - time.perf_counter()


def problem(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def elapsed(call: Callable[[], object], calls: int) -> float:
    """Milliseconds a call on the device, over so many calls in a row."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        call()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / calls


def interleaved(notes: Notes, calls: Calls, **where: Any) -> dict[str, float]:
    """Note best and median of each call, or why it has none; returns the best.

    All are warmed up first; then they take turns, round after round. A call that fails is a row
    like any other, and no reason to stop.
    """
    turns: dict[str, int] = {}
    for name, call in calls.items():
        try:
            elapsed(call, 3)
            turns[name] = max(1, min(50, round(LEAST_MS / max(elapsed(call, 2), 1e-3))))
        except Exception as error:
            notes.add(name=name, problem=problem(error), **where)
    times: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(ROUNDS):
        for name, count in turns.items():
            times[name].append(elapsed(calls[name], count))
    for name, found in times.items():
        notes.add(name=name, best=min(found), median=sorted(found)[ROUNDS // 2], **where)
    return {name: min(found) for name, found in times.items()}


def on_device(call: Callable[[], object]) -> float:
    """Milliseconds of a call on the device alone: captured in a CUDA graph, and replayed."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    graph.replay()
    torch.cuda.synchronize()
    return sorted(elapsed(graph.replay, 5) for _ in range(ROUNDS))[ROUNDS // 2]
