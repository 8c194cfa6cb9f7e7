"""A few processes of one gloo group, kept for all tests of a file."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

# A collective that a rank never joins fails after so long; a call is given a little more.
PATIENCE = timedelta(seconds=60)
SECONDS = 90


class Ranks:
    """Processes that all run the same functions, one after another.

    Args:
        size: How many processes.
        folder: Where they meet.

    Attributes:
        answers: Of the last call: of each rank whether it did well, and what it returned or raised.
    """

    answers: list[tuple[bool, Any]]

    def __init__(self, size: int, folder: Path) -> None:
        spawning = multiprocessing.get_context("spawn")
        self.size, self.folder, self.groups = size, folder, 0
        self.pipes, ends = zip(*(spawning.Pipe() for _ in range(size)), strict=True)
        self.processes = [
            spawning.Process(target=_serve, args=(rank, size, end), daemon=True)
            for rank, end in enumerate(ends)
        ]
        for process, end in zip(self.processes, ends, strict=True):
            process.start()
            end.close()

    def run(self, function: Callable[..., Any], *args: Any, seconds: float = SECONDS) -> list[Any]:
        """What each rank returns of ``function(rank, *args)``, in a new group of all ranks.

        Args:
            function: Of a module that the processes can import.
            args: Whatever can be pickled.
            seconds: How long it may take.

        Raises:
            AssertionError: With the trace of the first rank that raised, or that died.
        """
        self.groups += 1
        meeting = f"file://{self.folder}/group{self.groups}"
        for pipe in self.pipes:
            pipe.send_bytes(pickle.dumps((meeting, function, args)))
        self.answers = [self._answer(rank, seconds) for rank in range(self.size)]
        for rank, (is_well, found) in enumerate(self.answers):
            assert is_well, f"rank {rank}:\n{found}"
        return [found for _, found in self.answers]

    def _answer(self, rank: int, seconds: float) -> tuple[bool, Any]:
        assert self.pipes[rank].poll(seconds), f"rank {rank} has not come back"
        try:
            return pickle.loads(self.pipes[rank].recv_bytes())
        except EOFError:
            return False, "the process has ended"

    def close(self) -> None:
        """End the processes."""
        for process, pipe in zip(self.processes, self.pipes, strict=True):
            pipe.close()
            process.kill()
            process.join()


def _serve(rank: int, size: int, pipe: Any) -> None:
    """Run what comes, until nothing more can come."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
    while True:
        try:
            meeting, function, args = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        torch.manual_seed(0)
        distributed.init_process_group(
            "gloo", init_method=meeting, rank=rank, world_size=size, timeout=PATIENCE
        )
        try:
            answer = True, function(rank, *args)
        except BaseException:
            answer = False, traceback.format_exc()
        distributed.destroy_process_group()
        # By value: as handles to shared memory, tensors would go with this process.
        pipe.send_bytes(pickle.dumps(answer))
