"""The loop over trials, on the workers of a cluster: this process alone knows the study, they train."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.cluster.opening import Place, opened
from pipeline.cluster.sameness import World, marked, seen
from pipeline.cluster.tasks import Ended, WorkerDiedError, run_on
from pipeline.cluster.workforce import Workforce
from pipeline.errors import find_input_error
from pipeline.sweeps.failure import reason_of
from pipeline.sweeps.remote_trial import Order, answer, introduce, order_of, train_on_worker
from pipeline.sweeps.results import progress_line, write_table
from pipeline.sweeps.study import Study
from pipeline.sweeps.trial import Parent
from pipeline.sweeps.work import repeat

logger = logging.getLogger(__name__)


def work_on_cluster(study: Study, parent: Parent, place: Place) -> None:
    """Train trials on the workers of a cluster until none is left; one whose worker died is queued again.

    Args:
        study: of this process; workers never open its database, which may lie on a file system that several share.
        parent: the sweep's MLflow run, in a store that the workers reach.
        place: where the scheduler and the workers are.
    """
    topic = f"sweep-{study.key}"
    with marked(study.folder) as mark, opened(place) as client:
        world = World(contents=seen([mark, *study.sweep.config_file]))
        workforce = Workforce(client, partial(introduce, world), patience=place.patience)
        with workforce, workforce.hearing(topic):
            _Loop(study, parent, workforce, topic).run()


class _Loop:
    def __init__(self, study: Study, parent: Parent, workforce: Workforce, topic: str) -> None:
        self.study, self.parent, self.workforce, self.topic = study, parent, workforce, topic
        self.running: dict[int, optuna.Trial] = {}  # by number
        self.held: list[optuna.Trial] = []  # until the trial of the same point has ended

    def run(self) -> None:
        try:
            for ended in run_on(self.workforce, train_on_worker, self._take, tries=1, hear=self._hear):
                self._end(ended)
                self._repeat_held()
        except BaseException:
            for trial in [*self.running.values(), *self.held]:
                self.study.put_back(trial, is_asked_for=True)
            raise

    def _take(self) -> Order | None:
        """Return the next trial as a worker needs it; one whose point is being trained waits for that."""
        while (trial := self.study.claim()) is not None:
            number = trial.user_attrs["number"]
            twin = self._twin(trial)
            if twin is None:
                self.running[number] = trial
                return order_of(self.study.sweep, number, trial.params, self.parent, self.topic)
            self.held.append(trial)
            self._repeat_held()
        return None

    def _twin(self, trial: optuna.Trial) -> FrozenTrial | None:
        """Return the earlier trial of the same point, ended or not."""
        earlier = self.study.trials()[: trial.user_attrs["number"]]
        return next((other for other in earlier if other.params == trial.params), None)

    def _repeat_held(self) -> None:
        for trial in list(self.held):
            twin = self._twin(trial)
            if twin is not None and twin.state.is_finished():
                self.held.remove(trial)
                repeat(self.study, trial, twin)
                self._tell(trial.user_attrs["number"])

    def _hear(self, message: Mapping[str, Any]) -> None:
        """Note the value of an epoch, and answer whether the trial is worth more."""
        trial = self.running.get(message["number"])
        if trial is None:
            return  # an earlier attempt, which was taken for dead
        for step, value in message["values"]:
            trial.report(value, step)
        should_end = trial.should_prune() if message["asks"] else False
        self.workforce.client.run(answer, message["key"], should_end, workers=[message["worker"]], on_error="ignore")

    def _end(self, ended: Ended[Order]) -> None:
        number = ended.item.number
        trial = self.running.pop(number)
        if isinstance(ended.error, WorkerDiedError):
            logger.warning("the worker of trial %d died; its trial begins again", number)
            self.study.put_back(trial)
            return
        if ended.error is not None:
            if find_input_error(ended.error) is None:
                logger.warning("trial %d failed", number, exc_info=ended.error)
            self.study.finish(trial, None, TrialState.FAIL, reason=reason_of(ended.error))
        elif ended.value is None:  # it was stopped from outside
            self.study.put_back(trial)
            return
        else:
            came = dict(ended.value)
            self.study.finish(trial, came.pop("value"), TrialState[came.pop("state")], **came)
        self._tell(number)

    def _tell(self, number: int) -> None:
        print(progress_line(self.study, number, max(1, len(self.workforce.workers))), flush=True)
        write_table(self.study)
