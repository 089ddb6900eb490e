"""One training on several GPUs of a machine, each with a process of its own; without GPUs, on several CPU processes.

Every process runs the same training on the same batches. What is shared out are the passes of the networks: each process
takes its rows of the batch, and all get the outputs on all rows. So thresholds, alignments and losses see the whole batch,
as they do on one GPU, and the gradient is the same sum. Batch normalisation takes its statistics from the rows of its own
process, and the buffers are those of the first one, as in PyTorch's DistributedDataParallel.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from stssl.models.injection.base import Outputs
from stssl.models.teacher_student import Networks
from stssl.training.faults import LostMember, explain

GRACE_SECONDS = 10.0  # for the first process to raise by itself what has ended another one
ECHO_SECONDS = 2.0  # for a process that has raised to end, when this one hears of it
WAIT = timedelta(minutes=10)  # for one another; loading data is in it


class Team:
    """A process's part in a training.

    Args:
        rank: Which process this is; the first one leads.
        size: How many there are.
        meeting: A file that none has used yet, by which they find one another.
    """

    def __init__(self, rank: int, size: int, meeting: str) -> None:
        self.rank, self.size = rank, size
        self.device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
        for library in ("GLOO", "NCCL"):
            os.environ[f"{library}_SOCKET_IFNAME"] = "lo"  # one machine: no other is to reach them
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        distributed.init_process_group(
            backend, init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=WAIT
        )

    def tell(self, what: str, *arguments: Any) -> None:
        """Have the other processes do the same; only the leader says anything."""

    def hand_over(self, state: dict[str, Any]) -> None:
        """Have the other processes go on from a state too; see `tell`."""

    def join(self, *networks: Networks) -> None:
        """Have the passes of networks shared out from now on."""
        for each in networks:
            each.share = self.share

    def share(self, ask: Callable[..., Outputs], *batch: Tensor) -> Outputs:
        """Outputs on a batch of which this process computes its rows.

        Args:
            ask: A pass.
            batch: Its arguments, a row each.
        """
        count = len(batch[0])
        if count < self.size:  # everyone for himself
            return ask(*batch)
        bounds = [rank * count // self.size for rank in range(self.size + 1)]
        rows = slice(*bounds[self.rank : self.rank + 2])
        with self._own_randomness():
            mine = ask(*(part[rows] for part in batch))
        parts: list[Any] = [part if part is None else _Gather.apply(part, rows, bounds) for part in mine]
        return Outputs(*parts)

    @contextlib.contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Dropout of its own for each process and pass; what comes after is the same for all again."""
        devices = [self.device] if self.device.type == "cuda" else []
        seed = int(torch.randint(2**62, ()))
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed + self.rank)
            yield

    @torch.no_grad()
    def average(self, networks: nn.Module) -> None:
        """Average the gradients over all processes; the buffers of batch normalisation become those of the first one."""
        gradients = [p.grad for p in networks.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        parts = flat.div_(self.size).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        for module in networks.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for buffer in module.buffers():
                    distributed.broadcast(buffer, 0)


class _Gather(torch.autograd.Function):
    """The rows of all processes. Each computes the same loss from them, and `average` divides by their number."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, rows: slice, bounds: list[int]) -> Tensor:
        counts = [end - begin for begin, end in pairwise(bounds)]
        ctx.rows, ctx.size = rows, len(counts)
        padded = mine.new_zeros(max(counts), *mine.shape[1:])  # all send alike
        padded[: len(mine)] = mine
        parts = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.rows] * ctx.size, None, None


class Leader(Team):
    """The part of the process that the user sees; it starts the others, and ends with them.

    Args:
        size: How many processes, at least 2.
        threads: Of each one's computing on the CPU.
        last_words: Called with kind and reason before this process ends because another one has.
    """

    def __init__(self, size: int, threads: int = 1, last_words: Callable[[str, str], None] | None = None) -> None:
        torch.set_num_threads(threads)
        self._last_words = last_words
        self._folder = tempfile.TemporaryDirectory(prefix="stssl-team-")
        meeting = str(Path(self._folder.name) / "meeting")
        context = torch.multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._others = []
        for rank in range(1, size):
            ours, theirs = context.Pipe()
            other = context.Process(target=_serve, args=(rank, size, threads, meeting, theirs), daemon=True)
            other.start()
            self._pipes.append(ours)
            self._others.append(other)
        self._ending = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="team").start()
        super().__init__(0, size, meeting)

    def _watch(self) -> None:
        """End this process when another has ended, since it may wait for that one in a library that cannot be woken."""
        wait([other.sentinel for other in self._others])
        if not self._ending.wait(GRACE_SECONDS):
            try:
                if self._last_words:
                    self._last_words(*self._fault())
            finally:
                os._exit(1)

    def _fault(self) -> tuple[str, str]:
        """What the process said that has ended first, or that it said nothing."""
        said = sorted(Path(self._folder.name).glob("fault-*[0-9]"), key=lambda path: path.stat().st_mtime)
        if said:
            kind, _, reason = said[0].read_text(encoding="utf-8").partition(" ")
            return kind, reason
        return explain(LostMember("another process of the training has ended without a word"))

    def explain(self, error: Exception) -> tuple[str, str]:
        """Kind and reason of an error in this process, which may be but the echo of one in another."""
        echo = isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError)
        if echo and wait([other.sentinel for other in self._others], timeout=ECHO_SECONDS):
            return self._fault()
        return explain(error)

    def tell(self, what: str, *arguments: Any) -> None:
        for pipe in self._pipes:
            pipe.send((what, arguments))

    def hand_over(self, state: dict[str, Any]) -> None:
        path = Path(self._folder.name) / "state.pt"
        torch.save(state, path)
        self.tell("load", str(path))
        distributed.barrier()
        path.unlink()

    def close(self) -> None:
        """End the other processes; on GPUs, no team can be formed in this process again."""
        self._ending.set()
        for other in self._others:
            other.kill()
            other.join()
        if self.device.type == "cpu":  # NCCL would wait for those that are gone
            distributed.destroy_process_group()
        self._folder.cleanup()


def team_for(gpus: float, cpus: int, last_words: Callable[[str, str], None] | None = None) -> Leader | None:
    """The team of a training that has so many GPUs; None where one process does."""
    return Leader(int(gpus), max(1, cpus // int(gpus)), last_words) if gpus > 1 else None


def _serve(rank: int, size: int, threads: int, meeting: str, pipe: Connection) -> None:
    """What another process than the first does: as it is told, until the first one is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    team = Team(rank, size, meeting)
    try:
        _follow(team, pipe)
    except Exception as error:
        fault = Path(meeting).with_name(f"fault-{rank}")
        fault.with_suffix(".part").write_text(" ".join(explain(error)), encoding="utf-8")
        fault.with_suffix(".part").rename(fault)
        raise


def _follow(team: Team, pipe: Connection) -> None:
    from stssl.data.dataset import Dataset
    from stssl.training.recipe import Recipe
    from stssl.training.trainer import Trainer

    trainer = None
    while True:
        try:
            what, arguments = pipe.recv()
        except EOFError:
            return
        if what == "make":
            trainer = None  # its memory first
            recipe = Recipe.model_validate(arguments[0])
            trainer = Trainer(recipe, Dataset.open(recipe.data), team.device, team)
            continue
        assert trainer is not None
        if what == "load":
            trainer.load_state_dict(torch.load(arguments[0], map_location=team.device, weights_only=True))
            distributed.barrier()
        else:
            getattr(trainer, what)(*arguments)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
