"""The trials of a sweep in Optuna's database: handed out once, and found again after a kill."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import time
from typing import Any

import optuna
import psutil
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import InputError
from pipeline.sweeps import space
from pipeline.sweeps.sweep_file import PRUNERS, Sweep
from pipeline.volumes.atomic import atomic_write_text

logger = logging.getLogger(__name__)

KILLED_TOO_OFTEN = 3  # times in a row without a new checkpoint
ENDS_WITHIN = 30  # seconds that the processes of a killed sweep have to notice it
BUSY_FOR = 60  # seconds to wait for SQLite's lock


class Study:
    """A sweep's trials, known to the user by their number 0, 1, ...: its place in the order of points.

    A trial that a kill cut short is closed as failed, and its point is queued again under the same number; Optuna's own
    number of that second attempt is another. All other trials are queued one at a time as well, so that any number of
    processes and kills work through the same points in the same order.

    SQLite lets two processes take the same queued trial, so that on one machine they take trials under a file lock.

    Args:
        sweep: what to do.
    """

    def __init__(self, sweep: Sweep) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.sweep, self.folder = sweep, sweep.folder
        self.lock = FileLock(self.folder / ".claim.lock")
        self.points = _points(sweep)
        self.distributions = {axis.key: axis.distribution for axis in sweep.space}
        name, options = sweep.pruner
        self.optuna = optuna.create_study(
            storage=_storage(sweep),
            study_name=sweep.name,
            pruner=PRUNERS[name](**options),
            direction=sweep.direction,
            load_if_exists=True,
        )

    @property
    def attributes(self) -> dict[str, Any]:
        """What the study remembers about itself."""
        return self.optuna.user_attrs

    @property
    def key(self) -> str:
        """What no other sweep has, in any storage or folder; known once the study has begun."""
        return str(self.attributes["mark"])

    def remember(self, **facts: Any) -> None:
        """Keep facts about the sweep with the study."""
        for key, value in facts.items():
            self.optuna.set_user_attr(key, value)

    def trials(self) -> list[FrozenTrial]:
        """Return the last attempt at each trial, by number."""
        attempts = self.optuna.get_trials(deepcopy=False)
        found = {trial.user_attrs["number"]: trial for trial in attempts if "number" in trial.user_attrs}
        return [found[number] for number in sorted(found)]

    def begin(self) -> None:
        """Make sure that the study is of this sweep and of this folder, and queue what a kill cut short."""
        mark, identity = self.folder / ".study", json.loads(json.dumps(self.sweep.identity))
        if "identity" not in self.attributes:
            if runs := sorted(self.folder.glob("*/run.json")):
                reason = f"holds {len(runs)} runs of a sweep whose study is gone"
                raise InputError(reason, file=self.folder, remedy="give the sweep another name, or delete this folder")
            if not mark.exists():
                atomic_write_text(mark, secrets.token_hex(8))
            self.remember(mark=mark.read_text(), identity=identity)
        if not mark.exists() or self.attributes["mark"] != mark.read_text():
            reason = f"the storage has a sweep '{self.sweep.name}' already, which was begun in another folder"
            raise InputError(reason, remedy="give this sweep another name, or continue that one where it began")
        _refuse_changes(self.attributes["identity"], identity)
        for trial in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            _wait_for_end(trial)
            self.put_back(trial)

    def claim(self) -> optuna.Trial | None:
        """Return the next trial, which is this process's from now on; None when all have been handed out."""
        process = _this_process()
        with self.lock:
            queued = next(iter(self.optuna.get_trials(deepcopy=False, states=(TrialState.WAITING,))), None)
            # What is running says whose it is from its first moment on, for a kill may come at any.
            if queued is not None:
                number = queued.user_attrs["number"]
                self.optuna._storage.set_trial_user_attr(queued._trial_id, "process", process)
            else:
                trials = self.trials()
                number = len(trials)
                if number >= self.sweep.total or self._has_all(trials):
                    return None
                point = {} if self.points is None else self.points[number]  # of {} the sampler draws all
                self.optuna.enqueue_trial(point, user_attrs={"number": number, "process": process})
            name, options = self.sweep.sampler
            if name == "tpe":  # seeded for each trial, so that a sweep which was killed goes on as one that was not
                self.optuna.sampler = optuna.samplers.TPESampler(**options, seed=self.sweep.seed + number)
            return self.optuna.ask(self.distributions)

    def twin(self, trial: optuna.Trial) -> FrozenTrial | None:
        """Return the earlier trial of the same point, once it has ended; None where there is none."""
        number = trial.user_attrs["number"]
        while True:
            same = [other for other in self.trials()[:number] if other.params == trial.params]
            if not same or same[0].state.is_finished():
                return same[0] if same else None
            time.sleep(1)

    def finish(self, trial: optuna.Trial, value: float | None, state: TrialState, **facts: Any) -> None:
        """Close a trial, with facts about it such as the `reason` of a failure."""
        for key, fact in facts.items():
            trial.set_user_attr(key, fact)
        self.optuna.tell(trial, value if state == TrialState.COMPLETE else None, state)

    def put_back(self, trial: FrozenTrial | optuna.Trial, is_asked_for: bool = False) -> None:
        """Close an attempt that was cut short, and queue its point again, unless that happens over and over.

        Args:
            trial: the attempt.
            is_asked_for: the user or SIGTERM stopped it, which says nothing against the trial, however often.
        """
        attributes, trial_id = trial.user_attrs, trial._trial_id
        number = attributes.get("number")
        with self.lock:
            latest = {other.user_attrs["number"]: other for other in self.trials()}
            if number is not None and latest[number].number == trial.number:  # else it is queued again already
                attempts = 0 if self._got_further(trial) else attributes.get("attempts", 0)
                attempts += not is_asked_for
                if attempts >= KILLED_TOO_OFTEN:
                    reason = f"its process was killed {attempts} times in a row without getting further"
                    optuna.Trial(self.optuna, trial_id).set_user_attr("reason", reason)
                else:
                    known: dict[str, Any] = {"number": number, "attempts": attempts}
                    is_drawn = len(trial.params) == len(self.distributions)  # else it was killed among its draws
                    point = self.points[number] if self.points is not None else trial.params if is_drawn else {}
                    self.optuna.enqueue_trial(point, user_attrs=known)
            self.optuna.tell(trial.number, state=TrialState.FAIL)

    def put_back_of_process(self, pid: int) -> bool:
        """Put back what a process of this machine that has ended was training; return whether there was something."""
        running = self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        lost = [trial for trial in running if _is_of(trial, pid)]
        for trial in lost:
            self.put_back(trial)
        return bool(lost)

    def has_begun(self, pid: int) -> bool:
        """Return whether a process of this machine ever had a trial."""
        attempts = self.optuna.get_trials(deepcopy=False)
        return any(_is_of(trial, pid) for trial in attempts if trial.state != TrialState.WAITING)

    def _has_all(self, trials: list[FrozenTrial]) -> bool:
        """Whether a finite space has no point left that was not handed out."""
        return len({tuple(sorted(trial.params.items(), key=str)) for trial in trials}) == space.size(self.sweep.space)

    def _got_further(self, trial: FrozenTrial | optuna.Trial) -> bool:
        name = trial_name(self.sweep, trial.user_attrs["number"])
        checkpoints = [
            *self.folder.glob(f"{name}/checkpoints/last.pt"),
            *self.folder.glob(f"{name}-*/checkpoints/last.pt"),
        ]
        assert trial.datetime_start is not None
        return any(file.stat().st_mtime > trial.datetime_start.timestamp() for file in checkpoints)


def trial_name(sweep: Sweep, number: int) -> str:
    """Return the name of a trial's run, "example-007"."""
    return f"{sweep.name}-{number:03d}"


def make_folder(sweep: Sweep) -> None:
    """Make the sweep's folder, unless it is there."""
    try:
        sweep.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"the sweep's folder cannot be made: {error.strerror}"
        raise InputError(reason, file=sweep.folder, remedy="give another output_dir") from error


def _points(sweep: Sweep) -> list[dict[str, Any]] | None:
    name = sweep.sampler[0]
    if name == "tpe":
        return None
    return space.grid(sweep.space) if name == "grid" else space.draws(sweep.space, sweep.seed, sweep.total)


def _storage(sweep: Sweep) -> optuna.storages.RDBStorage:
    make_folder(sweep)
    url = sweep.storage or f"sqlite:///{(sweep.folder / 'study.db').absolute()}"
    options = {"connect_args": {"timeout": BUSY_FOR}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        # Two processes that meet a new file at once would both create its tables.
        with FileLock(sweep.folder / ".claim.lock"):
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        kind, line = url.split(":")[0], str(error).splitlines()[0]  # the whole URL may hold a password
        raise InputError(
            f"the storage ({kind}) cannot be used: {line}", remedy="check 'storage' in the sweep file"
        ) from error


def _refuse_changes(then: dict[str, Any], now: dict[str, Any]) -> None:
    changed = [key for key in now if json.dumps(now[key]) != json.dumps(then.get(key))]  # a NaN is not itself
    if changed:
        reason = f"the sweep '{now['name']}' was begun with another {', '.join(sorted(changed))}"
        raise InputError(reason, remedy="give the changed sweep another name: only 'trials' may grow")


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _is_of(trial: FrozenTrial, pid: int) -> bool:
    process = trial.user_attrs.get("process", {})
    return process.get("host") == socket.gethostname() and process["pid"] == pid


def _wait_for_end(trial: FrozenTrial) -> None:
    """Wait for a worker that outlives its killed sweep by some seconds."""
    process = trial.user_attrs.get("process", {})
    deadline = time.monotonic() + ENDS_WITHIN
    while _is_alive(process):
        if time.monotonic() > deadline:
            raise InputError(
                f"trial {trial.user_attrs['number']} is still being trained by the process {process['pid']}",
                remedy=f"wait for it, or stop it with: kill {process['pid']}",
            )
        time.sleep(0.5)


def _is_alive(process: dict[str, Any]) -> bool:
    if process.get("host") != socket.gethostname() or process["pid"] == os.getpid():
        return False
    try:
        found = psutil.Process(process["pid"])
        return found.create_time() == process["started"] and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
