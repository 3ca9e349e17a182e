"""The loop over trials: in this process, or in several that share the study."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

from pipeline.errors import InputError, find_input_error
from pipeline.stop_signals import stopped_by_signals
from pipeline.sweeps.failure import reason_of
from pipeline.sweeps.results import progress_line, write_table
from pipeline.sweeps.study import Study
from pipeline.sweeps.sweep_file import Sweep
from pipeline.sweeps.trial import Parent, SweepTrial

logger = logging.getLogger(__name__)

STOPPED_WITHIN = 15  # seconds for a worker to close its run when it is told to stop
KILLED_TOO_OFTEN = 3  # workers of one place in a row that did not come to a trial


def work(sweep: Sweep, parent: Parent, workers: int = 1) -> None:
    """Train trials one after the other until none is left; what fails is kept with its reason, and the next one begins.

    Args:
        sweep: whose study has been begun.
        parent: its MLflow run.
        workers: how many processes do this at once, for the time left.
    """
    study = Study(sweep)
    while (trial := study.claim()) is not None:
        twin = study.twin(trial)
        if twin is None:
            _train(study, SweepTrial(sweep, trial, parent, bars=workers == 1))
        else:
            repeat(study, trial, twin)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print(progress_line(study, trial.user_attrs["number"], workers), flush=True)
        with study.lock:
            write_table(study)


def _train(study: Study, of_sweep: SweepTrial) -> None:
    trial, begun = of_sweep.trial, time.monotonic()
    value, state, status, reason = None, TrialState.COMPLETE, "FINISHED", None
    try:
        value = of_sweep.train()
    except optuna.TrialPruned:
        state = TrialState.PRUNED
    except Exception as error:
        state, status, reason = TrialState.FAIL, "FAILED", reason_of(error)
        if find_input_error(error) is None:  # no mistake in the sweep's settings: the place may help
            logger.warning("trial %d failed", trial.user_attrs["number"], exc_info=True)
    except BaseException:  # the user, SIGTERM or SIGHUP
        of_sweep.end("KILLED")
        study.put_back(trial, is_asked_for=True)
        raise
    run = of_sweep.end(status, reason)
    facts = {"reason": reason, "mlflow_run_id": run, "seconds": round(time.monotonic() - begun, 1)}
    study.finish(trial, value, state, **{key: fact for key, fact in facts.items() if fact is not None})


def repeat(study: Study, trial: optuna.Trial, twin: FrozenTrial) -> None:
    """Give a trial what an earlier one of the same point came to."""
    for step, value in twin.intermediate_values.items():
        trial.report(value, step)
    known = {key: twin.user_attrs[key] for key in ("reason", "mlflow_run_id") if key in twin.user_attrs}
    same = twin.user_attrs.get("same_as", twin.user_attrs["number"])
    study.finish(trial, twin.value, twin.state, **known, same_as=same)


def work_in_processes(study: Study, parent: Parent, workers: int) -> None:
    """Let several processes work; one that is killed is replaced, and its trial queued again.

    Each is started afresh (spawned), as CUDA wants it, and ends with this process.
    """
    context = multiprocessing.get_context("spawn")
    in_vain: Counter[int] = Counter()  # by place, workers in a row that were killed before they had a trial

    def start(place: int) -> BaseProcess:
        process = context.Process(target=_worker, args=(study.sweep, parent, workers, place), name=f"sweep-{place}")
        process.start()
        return process

    with _shared_cores(workers):
        running = {place: start(place) for place in range(min(workers, study.sweep.total))}
        try:
            while running:
                wait([process.sentinel for process in running.values()])
                for place, process in list(running.items()):
                    if process.exitcode is None:
                        continue
                    del running[place]
                    if process.exitcode == 0:
                        continue
                    in_vain[place] = _put_back(study, process, in_vain[place])
                    running[place] = start(place)
        finally:
            _stop(list(running.values()))


def _put_back(study: Study, process: BaseProcess, in_vain: int) -> int:
    """Queue what a worker that died was training; return how many in a row have died before they had a trial.

    An error says that another worker would come to the same end.
    """
    pid, how = process.pid or 0, _ending(process.exitcode or 0)
    had_trial = study.put_back_of_process(pid)
    if not had_trial and not how.startswith("SIG"):
        raise RuntimeError(f"a worker ended with {how}; what it said stands above")
    in_vain = 0 if study.has_begun(pid) else in_vain + 1
    if in_vain == KILLED_TOO_OFTEN:
        raise InputError(
            f"{KILLED_TOO_OFTEN} workers in a row were killed ({how}) before they came to a trial",
            remedy="mostly memory is short: give fewer --workers, or close other programs",
        )
    logger.warning("a worker was killed (%s); %s", how, "its trial begins again" if had_trial else "another one begins")
    return in_vain


def _worker(sweep: Sweep, parent: Parent, workers: int, place: int) -> None:
    devices = _visible_devices()
    if len(devices) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[place % len(devices)]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the first process too, which stops this one
    with stopped_by_signals():
        work(sweep, parent, workers)


def _end_with_parent() -> None:
    """Stop this worker when the process that started it is gone, however that ended."""
    above = multiprocessing.parent_process()
    assert above is not None
    wait([above.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOPPED_WITHIN)
    os._exit(1)


def _stop(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(STOPPED_WITHIN)
        if process.is_alive():
            process.kill()
            process.join()


def _ending(exitcode: int) -> str:
    """Return "SIGTERM" for -15, and for 128 + 15, by which a worker that is told to stop says so; else the status."""
    number = -exitcode if exitcode < 0 else exitcode - 128
    return signal.Signals(number).name if number in set(signal.Signals) else f"status {exitcode}"


def _visible_devices() -> list[str]:
    """Return the GPUs that this process may use, without waking them."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [device for device in listed.split(",") if device]
    return [str(number) for number in range(torch.cuda.device_count())]


@contextmanager
def _shared_cores(workers: int) -> Iterator[None]:
    """Let the processes that start now have a share of the cores each, and wait without spinning."""
    share = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers)), "OMP_WAIT_POLICY": "PASSIVE"}
    added = {key: value for key, value in share.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            del os.environ[key]
