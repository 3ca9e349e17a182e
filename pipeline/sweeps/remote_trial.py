"""A trial on a worker of a cluster: trained by a process of its own, that can be stopped and leaves nothing behind."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, cast

from pipeline.cluster.sameness import World
from pipeline.cluster.tasks import is_still_wanted
from pipeline.errors import InputError, find_input_error

if TYPE_CHECKING:
    from pipeline.sweeps.sweep_file import Sweep
    from pipeline.sweeps.trial import Parent, SweepTrial

logger = logging.getLogger(__name__)

ENDS_WITHIN = 60  # seconds for an earlier attempt to notice that its worker is gone
STOPPED_WITHIN = 15  # seconds for a training to close its run when it is told to stop
LOOK_EVERY = 0.5  # seconds between two looks whether the trial is still wanted


@dataclass(frozen=True)
class Order:
    """What a worker needs to train a trial.

    Args:
        number: of the trial among the sweep's.
        params: its point.
        sweep: what the trial is of.
        parent: the sweep's MLflow run.
        topic: by which the client hears of values.
        folder: where relative paths begin.
    """

    number: int
    params: Mapping[str, Any]
    sweep: Sweep
    parent: Parent
    topic: str
    folder: str


def order_of(sweep: Sweep, number: int, params: Mapping[str, Any], parent: Parent, topic: str) -> Order:
    """Return what a worker needs to train a trial of a sweep."""
    return Order(number, dict(params), sweep, parent, topic, os.getcwd())


def introduce(world: World) -> None:
    """Run on a worker before all else: look whether it sees what the client sees."""
    world.check()


_answers: dict[str, SimpleQueue[bool]] = {}  # to trainings of this worker, by their task


def answer(key: str, should_end: bool) -> None:
    """Run on a worker: tell a training whether to end."""
    if key in _answers:
        _answers[key].put(should_end)


def train_on_worker(order: Order) -> dict[str, Any] | None:
    """Run on a worker: train a trial; return what it came to, or None where it was stopped.

    It is stopped when nobody waits for it any more: the client was told to stop, or is gone.
    """
    from distributed import get_worker

    worker, is_wanted = get_worker(), is_still_wanted()
    key = str(worker.get_current_task())
    answers = _answers[key] = SimpleQueue()
    try:
        with _training(order) as (process, pipe):
            while True:
                message = _next_message(process, pipe, is_wanted)
                if message is None:
                    return None
                if "values" not in message:
                    return message
                told = {**message, "number": order.number, "key": key, "worker": worker.address}
                worker.log_event(order.topic, told)
                should_end = _wait_for(answers, is_wanted)
                if should_end is None:
                    return None
                pipe.send(should_end)
    finally:
        del _answers[key]


def _next_message(process: subprocess.Popen[bytes], pipe: Connection, is_wanted: Any) -> dict[str, Any] | None:
    """Return what the training says next, None where it will say no more."""
    while is_wanted():
        try:
            if pipe.poll(LOOK_EVERY):
                return pipe.recv()
        except (EOFError, OSError):
            return None
        if process.poll() is not None and not pipe.poll(0):
            return None
    return None


def _wait_for(answers: SimpleQueue[bool], is_wanted: Any) -> bool | None:
    while is_wanted():
        with suppress(Empty):
            return answers.get(timeout=LOOK_EVERY)
    return None


@contextmanager
def _training(order: Order) -> Iterator[tuple[subprocess.Popen[bytes], Connection]]:
    """Start a training's process, and stop it at the end if it has not ended; its run in MLflow is KILLED then."""
    ours, theirs = Pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.sweeps.remote_trial", str(theirs.fileno())],
        cwd=order.folder,
        pass_fds=[theirs.fileno()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,  # Ctrl-C in a terminal is for the client, which ends this
    )
    theirs.close()
    try:
        ours.send(order)
        yield process, ours
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOPPED_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        ours.close()


class RemoteTrial:
    """Stands for Optuna's trial in a training's process: what it is told and asked goes to the client.

    Args:
        order: the trial.
        pipe: to the worker.
    """

    def __init__(self, order: Order, pipe: Connection) -> None:
        self.params, self.user_attrs = dict(order.params), {"number": order.number}
        self._pipe, self._lock = pipe, threading.Lock()
        self._values: list[tuple[int, float]] = []

    def report(self, value: float, step: int) -> None:
        """Note the value of an epoch."""
        self._values.append((step, value))

    def should_prune(self) -> bool:
        """Send the values that were noted; return whether the trial is not worth more."""
        return self.send(asks=True)

    def send(self, asks: bool = False) -> bool:
        """Send the values that were noted, if there are any or something is asked."""
        if not self._values and not asks:
            return False
        values, self._values = self._values, []
        self._pipe.send({"values": values, "asks": asks})
        return bool(self._pipe.recv())


def _main(descriptor: int) -> None:
    """Be a training's process: a trial comes through the pipe, and what it came to goes back."""
    from pipeline.stop_signals import stopped_by_signals

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Connection(descriptor)
    order: Order = pipe.recv()
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    with stopped_by_signals():
        pipe.send(_train(order, pipe))


def _train(order: Order, pipe: Connection) -> dict[str, Any]:
    import optuna

    from pipeline.sweeps.failure import reason_of
    from pipeline.sweeps.trial import SweepTrial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trial, begun = RemoteTrial(order, pipe), time.monotonic()
    of_sweep = SweepTrial(order.sweep, cast(optuna.Trial, trial), order.parent, bars=False)
    value, state, status, reason = None, "COMPLETE", "FINISHED", None
    try:
        with _only_one(of_sweep):
            value = of_sweep.train()
    except optuna.TrialPruned:
        state = "PRUNED"
    except Exception as error:
        state, status, reason = "FAIL", "FAILED", reason_of(error)
        if find_input_error(error) is None:  # no mistake in the sweep's settings: the place may help
            logger.warning("trial %d failed", order.number, exc_info=True)
    except BaseException:  # SIGTERM or SIGHUP
        of_sweep.end("KILLED")
        raise
    run = of_sweep.end(status, reason)
    trial.send()
    facts = {"reason": reason, "mlflow_run_id": run, "seconds": round(time.monotonic() - begun, 1)}
    known = {key: fact for key, fact in facts.items() if fact is not None}
    return {"value": value, "state": state, **known}


@contextmanager
def _only_one(of_sweep: SweepTrial) -> Iterator[None]:
    """Wait for an attempt whose worker died and which is still closing its run."""
    from filelock import FileLock, Timeout

    lock = FileLock(of_sweep.sweep.folder / f".{of_sweep.name}.lock")
    try:
        lock.acquire(timeout=ENDS_WITHIN)
    except Timeout:
        reason = f"trial {of_sweep.name} is still being trained by another process"
        raise InputError(reason, file=lock.lock_file, remedy="stop that process") from None
    try:
        yield
    finally:
        lock.release()


def _end_with_parent(parent: int) -> None:
    """Stop this process when the worker that started it is gone, however that ended."""
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOPPED_WITHIN)
    os._exit(1)


if __name__ == "__main__":
    from pipeline.sweeps import remote_trial  # the same module by its own name: what comes through the pipe is of it

    remote_trial._main(int(sys.argv[1]))
