"""The processes of one training, its ranks: started by torchrun, told apart, heard when one of them fails."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import Any, NamedTuple

import psutil
import torch
import torch.distributed as dist

from pipeline.errors import InputError
from pipeline.stop_signals import STOPS

STARTED_WITHIN = 300  # seconds between the first rank and the last one
LEFT_WITHIN = 5  # seconds in which the process of a rank whose connection has closed is gone, or has said why
CLOSED_WITHIN = 15  # seconds that the first rank has to close the run's books before the others leave


logger = logging.getLogger(__name__)


class Process(NamedTuple):
    """Where a rank runs; a process number is used again, its start tells two of them apart."""

    host: str
    number: int
    begun: float


class LostRankError(InputError):
    """The end of another process of the training."""


_processes: list[Process] = []  # of all ranks
_store: dist.Store | None = None  # torchrun's own, which outlives the ranks
_starts = 0  # of groups by this process
_has_left = False  # after an error, of which it has said its part


def size() -> int:
    """Number of ranks, 1 without torchrun."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this one, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def are_started() -> bool:
    """Whether torchrun has started this process."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def start() -> None:
    """Join the ranks that torchrun has started: nccl where tensors are on GPUs, gloo for all else."""
    global _store, _starts
    if dist.is_initialized():
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # Torchrun keeps its store through a restart, and the addresses of the ended ranks in it: these have their own.
    _starts += 1
    _store = dist.PrefixStore(f"pipeline/{restarts()}/{_starts}", _open_store())
    number, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(backend, store=dist.PrefixStore("group", _store), rank=number, world_size=count)
    own = Process(socket.gethostname(), os.getpid(), psutil.Process().create_time())
    _processes[:] = gather(own)
    if rank() > 0:
        logging.disable(logging.WARNING)  # the first one says it; errors are everyone's own
        for number in STOPS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                signal.signal(number, _leave_after_the_first)


def finish() -> None:
    """Part from the other ranks, when all is done."""
    global _store
    if dist.is_initialized():
        dist.destroy_process_group()
    _store = None
    _processes.clear()


def device() -> str:
    """Return the device of this rank: the GPU of its number on this machine, the CPU where there is none."""
    if not torch.cuda.is_available():
        return "cpu"
    wanted, there = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if wanted > there:
        reason = f"torchrun was told to start {wanted} processes on this machine, which has {there} GPUs"
        raise InputError(reason, remedy=f"--nproc_per_node={there}, or --device cpu")
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"


def share(batch_size: int) -> int:
    """Return how many samples of a batch are this rank's: `batch_size` is that of all ranks together."""
    if batch_size % size():
        below = batch_size - batch_size % size()
        near = " or ".join(f"--batch_size {number}" for number in (below, below + size()) if number)
        raise InputError(f"a batch of {batch_size} cannot be shared among {size()} processes", remedy=near)
    return batch_size // size()


def gather(own: Any) -> list[Any]:
    """Return what every rank has, by rank, the same on all of them."""
    if size() == 1:
        return [own]
    parts: list[Any] = [None] * size()
    dist.all_gather_object(parts, own)
    return parts


def gather_first(own: Any) -> list[Any]:
    """Return what every rank has on the first one, and nothing on the others: for what is large."""
    if size() == 1:
        return [own]
    parts: list[Any] | None = [None] * size() if rank() == 0 else None
    dist.gather_object(own, parts)
    return parts or []


def mean(value: torch.Tensor) -> torch.Tensor:
    """Return the mean of a number over the ranks, without its gradient; of one rank, the number itself."""
    value = value.detach()
    if size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / size()


def job() -> str | None:
    """Return what a torchrun keeps through its restarts: its own id, else that of its process; None without one."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name is None:
        return None
    return f"{socket.gethostname()}-{os.getppid()}" if name == "none" else name


def restarts() -> int:
    """How often torchrun has started these ranks again (its `--max-restarts`)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def says(problem: InputError) -> bool:
    """Whether this rank is the one to print a problem: what all of them find is said by whoever finds it first.

    That a rank is lost says the first one; another only where that one itself is lost.
    """
    if size() == 1:
        return not _has_left
    if isinstance(problem, LostRankError) and rank() > 0:
        leave()
        return _is_new("a word", otherwise=False)
    _is_new("a word")
    return _is_new(str(problem))


def lost(error: BaseException, resume: str = "--resume true") -> LostRankError | None:
    """Return what an error of this rank comes to where it is that another rank is gone; None where it is not.

    Args:
        error: what was raised here: by a connection that has closed, or by torchrun, which stops all that are left.
        resume: the arguments by which the training is continued.
    """
    is_told, is_cut = isinstance(error, SystemExit), _is_of_connection(error)
    if size() == 1 or not (is_told or is_cut):
        return None
    _note_survival()
    deadline = time.monotonic() + (LEFT_WITHIN if is_cut else 0)
    while not (gone := _gone()) and time.monotonic() < deadline:
        time.sleep(0.1)
    if not gone and is_told:
        return None
    number, words = next(iter(gone.items()), ("?", "cannot be reached"))
    return LostRankError(f"rank {number} of this training {words}", remedy=_go_on(resume))


def leave(reason: str = "") -> None:
    """Part from the others after an error: they hear why, and the first one closes the run's books before this ends."""
    global _has_left
    if size() == 1:
        return
    _has_left, number, is_first = True, rank(), rank() == 0
    if reason:
        _asked(lambda store: store.set(f"left/{number}", reason[:2000]), None)
    dist.destroy_process_group()  # whoever waits for this rank waits no more
    if not is_first:
        _wait_for_the_first()


def _open_store() -> dist.Store:
    """Return the store that torchrun serves, or else the first rank."""
    is_server = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and os.environ["RANK"] == "0"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(address, port, is_master=is_server, timeout=timedelta(seconds=STARTED_WITHIN))


def _gone() -> dict[int, str]:
    """What became of each other rank that has ended; those of other machines are known by their own words alone."""
    found = {}
    for number, process in enumerate(_processes):
        if number == rank():
            continue
        if reason := _last_words(number):
            found[number] = f"has failed: {reason}"
        elif not _is_alive(process):
            found[number] = f"(process {process.number} on {process.host}) has died"
    # Those that were stopped, or left, because of another come behind that one: torchrun stops all when one has died.
    return dict(sorted(found.items(), key=lambda item: _has_survived(item[0])))


def _note_survival() -> None:
    key = f"survived/{rank()}"
    _asked(lambda store: store.set(key, "the end of another"), None)


def _has_survived(number: int) -> bool:
    key = f"survived/{number}"
    return bool(_asked(lambda store: store.check([key]), False))


def _last_words(number: int) -> str:
    key = f"left/{number}"
    return _asked(lambda store: store.get(key).decode() if store.check([key]) else "", "")


def _is_alive(process: Process) -> bool:
    """Whether a process still runs, as far as this machine can know; one that its parent has not buried does not."""
    if process.host != socket.gethostname():
        return True
    try:
        there = psutil.Process(process.number)
        return there.create_time() == process.begun and there.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_new(text: str, otherwise: bool = True) -> bool:
    return bool(_asked(lambda store: store.add(f"said/{text}", 1) == 1, otherwise))


def _asked(question: Callable[[Any], Any], otherwise: Any) -> Any:
    """Return the store's answer; where the store has ended with torchrun, another one."""
    try:
        return question(_store) if _store is not None else otherwise
    except RuntimeError:
        return otherwise


def _is_of_connection(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _go_on(resume: str) -> str:
    if restarts() < int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)):
        return "none: torchrun starts all of them again, from the last checkpoint"
    why = "if it gave no reason above, memory was mostly short: give a smaller --num_workers or --batch_size"
    return f"{why}; continue with {resume}"


def _wait_for_the_first() -> None:
    deadline = time.monotonic() + CLOSED_WITHIN
    is_here = _processes and _processes[0].host == socket.gethostname()
    while is_here and _is_alive(_processes[0]) and time.monotonic() < deadline:
        time.sleep(0.05)


def _leave_after_the_first(number: int, frame: FrameType | None) -> None:
    """End by a signal, but after the first rank, for which the death of this one would be another story."""
    for other in STOPS:
        signal.signal(other, signal.SIG_IGN)
    _note_survival()
    first = _gone().get(0)
    if first is not None and not _last_words(0) and _is_new("a word", otherwise=False):
        logger.error("%s", LostRankError(f"rank 0 of this training {first}", remedy=_go_on("--resume true")))
    _wait_for_the_first()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
