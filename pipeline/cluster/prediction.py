"""A batch of cases on the workers of a cluster: a case is a task, the network is loaded once by each worker."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.batch.case_work import Row, new_row
from pipeline.batch.completion import Completion, digest_of
from pipeline.batch.failures import log_failure
from pipeline.batch.input_files import RECORDS
from pipeline.batch.inputs import Input
from pipeline.batch.turns import AT_ONCE
from pipeline.cluster.large_volume import predict_large
from pipeline.cluster.opening import Place, opened
from pipeline.cluster.recipe import Recipe, introduce, predict_case
from pipeline.cluster.said import say
from pipeline.cluster.sameness import World, marked, seen
from pipeline.cluster.tasks import Ended, WorkerDiedError, run_on
from pipeline.cluster.workforce import Workforce
from pipeline.errors import InputError
from pipeline.provenance import digest
from pipeline.stop_signals import stopped_by_signals

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from pipeline.predict import FolderPredictor


class ClusterWork:
    """What `FolderPredictor.run` does with cases, done by the workers of a cluster.

    Args:
        workforce: introduced by `introduce`.
        recipe: of the predictor.
        completion: the records of the output folder.
        execution: number format and program in which all workers predict.
    """

    def __init__(
        self, workforce: Workforce, recipe: Recipe, completion: Completion, execution: Mapping[str, str]
    ) -> None:
        self.workforce, self.recipe, self.completion, self.execution = workforce, recipe, completion, execution

    def state(self) -> str:
        """How many workers there are, in words for a progress bar."""
        count = len(self.workforce.workers)
        return f"{count} worker" + "s" * (count != 1)

    def finish(self, todo: Sequence[Input], tell: Callable[[Row, Mapping[str, float]], None]) -> Iterator[Row]:
        """Yield the row of each case as it ends.

        OME-Zarr images come last, and one after the other, shared by all workers; more of them than workers are done
        as other cases are, each by one worker.
        """
        for ended in self._ended(todo):
            row, seconds = self._row(ended)
            tell(row, seconds)
            yield row

    def _ended(self, todo: Sequence[Input]) -> Iterator[Ended[Input]]:
        stores = [entry for entry in todo if entry.store is not None]
        if len(stores) > len(self.workforce.workers):
            stores = []
        small = iter([entry for entry in todo if entry not in stores])
        work = partial(predict_case, self.recipe)
        yield from run_on(self.workforce, work, lambda: next(small, None), AT_ONCE)
        for entry in stores:
            yield predict_large(self.workforce, self.recipe, entry)

    def _row(self, ended: Ended[Input]) -> tuple[Row, Mapping[str, float]]:
        entry, error = ended.item, ended.error
        if error is None:
            row, seconds, lines = ended.value
            say(lines)
            return row, seconds
        if isinstance(error, WorkerDiedError):
            error = InputError(error.reason, case=entry.case, file=entry.files[0], remedy=error.remedy)
        reason = log_failure(entry.case, error, self.completion.leftovers(entry))
        return new_row(entry, "failed") | {"reason": reason}, {}


@contextmanager
def cluster_work(
    place: Place,
    predictor: FolderPredictor,
    files: Sequence[str],
    trust: bool,
    overrides: Mapping[str, Any],
    entries: Sequence[Input],
) -> Iterator[ClusterWork]:
    """Open a cluster, wait for its first worker, and let it work until the block ends.

    Args:
        place: where the scheduler and the workers are.
        predictor: the client's own; its weights need not be loaded.
        files: its config and overlays.
        trust: as it was checked with.
        overrides: settings that it was made with.
        entries: the batch.
    """
    with ExitStack() as stack:
        stack.enter_context(stopped_by_signals())
        mark = stack.enter_context(marked(predictor.output_dir / RECORDS))
        first = entries[0].parts[:1] if entries else ()
        recipe = Recipe(
            files=tuple(os.path.abspath(file) for file in files),
            overrides=overrides,
            trust=trust,
            folder=os.getcwd(),
            world=World(
                contents=seen([*files, predictor.weights, mark]),
                present=tuple(os.path.abspath(part) for part in first),
            ),
            settings=digest_of(predictor.settings),
        )
        try:
            client = stack.enter_context(opened(place))
            workforce = stack.enter_context(Workforce(client, partial(introduce, recipe), judge, place.patience))
            facts = workforce.first()
        except (KeyboardInterrupt, SystemExit):
            logger.warning("stopped before the first case: run it again")
            raise
        say(facts["lines"])
        model = {"weights": digest(predictor.weights), "settings": recipe.settings, **facts["execution"]}
        yield ClusterWork(workforce, recipe, Completion(predictor.output_dir, model), facts["execution"])


def judge(facts: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """Refuse a worker whose results would differ from those of the first one."""
    here, there = (" with ".join(found["execution"].values()) for found in (facts, first))
    if here != there:
        remedy = "give all the same hardware, or say --precision float32 --backend torch"
        raise InputError(f"they compute in {here}, and the first one in {there}", remedy=remedy)
