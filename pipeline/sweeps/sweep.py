"""`python -m pipeline sweep`: from the file to the table of the best."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial

from pipeline.cluster.opening import Place
from pipeline.errors import InputError
from pipeline.handlers.case_scores import mean_scores
from pipeline.handlers.mlflow_run import origin
from pipeline.journal import NAME
from pipeline.stop_signals import stopped_by_signals
from pipeline.sweeps.config_check import Training, check_config
from pipeline.sweeps.results import counts, print_summary, ranked, write_table
from pipeline.sweeps.study import Study, make_folder, trial_name
from pipeline.sweeps.sweep_file import Sweep, read_sweep, without_passwords
from pipeline.sweeps.trial import TABLES, Parent, read_cases
from pipeline.sweeps.work import work, work_in_processes
from pipeline.sync import sync
from pipeline.tracking import Tracking
from pipeline.volumes.atomic import atomic_write_text

logger = logging.getLogger(__name__)


def run_sweep(file: str | Path, workers: int = 1, trials: int | None = None, place: Place | None = None) -> Path:
    """Train what a sweep file describes; continue the sweep where it was begun already. Return the table of results.

    The file is checked as a whole before the first trial. The sweep's folder `<output_dir>/<name>/` has the study, the
    file, `results.csv` and a run folder for each training. Its MLflow run has those of the trials beneath it.

    Args:
        file: YAML; `sweeps/example.yaml` names all keys.
        workers: processes that train at the same time; 1 trains in this one.
        trials: how many, instead of what the file says.
        place: a cluster whose workers train instead.
    """
    if workers < 1:
        raise InputError(f"{workers} workers", remedy="give a whole number, 1 or more")
    sweep = read_sweep(file, trials)
    first = check_config(sweep, file)
    with _only_one(sweep), stopped_by_signals():
        study = Study(sweep)
        study.begin()
        atomic_write_text(sweep.folder / "sweep.yaml", without_passwords(Path(file).read_text()))
        store = first.parsed("mlflow")
        tracking = Tracking(store.uri, store.experiment, system_metrics_every=0)
        status = "KILLED"
        try:
            parent = _open(tracking, study, first)
            if place is not None:
                from pipeline.sweeps.on_cluster import work_on_cluster

                work_on_cluster(study, parent, place)
            elif workers == 1:
                work(sweep, parent)
            else:
                work_in_processes(study, parent, workers)
            status = "FINISHED" if ranked(study) else "FAILED"
        except (KeyboardInterrupt, SystemExit) as stop:
            logger.warning("stopped; the same command continues the sweep")
            raise SystemExit(130 if isinstance(stop, KeyboardInterrupt) else stop.code) from None
        finally:
            try:
                results = write_table(study)
                _close(tracking, study, results, status)
            finally:
                tracking.end("KILLED")  # where that was cut short as well
        return _report(study, results, tracking)


@contextmanager
def _only_one(sweep: Sweep) -> Iterator[None]:
    """Hold the sweep's folder: what is still running in the study then, was cut short."""
    make_folder(sweep)
    lock = FileLock(sweep.folder / ".lock")
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout:
        raise InputError(
            f"the sweep '{sweep.name}' is being run by another process", remedy="wait for it, or stop it"
        ) from None


def _open(tracking: Tracking, study: Study, first: Training) -> Parent:
    """Open the sweep's MLflow run, or the one again that it was begun with."""
    sweep = study.sweep
    entries = {
        "sampler": sweep.sampler[0],
        "pruner": sweep.pruner[0],
        "trials": sweep.total,
        "sampler_seed": sweep.seed,
        "folds": list(sweep.folds),
        "metric": sweep.metric,
        "direction": sweep.direction,
        "config_file": list(sweep.config_file),
    }
    space = json.dumps({axis.key: axis.description for axis in sweep.space})
    own = {"sweep": sweep.name, "sweep.role": "sweep", "sweep.space": space, "sweep.folder": sweep.folder}
    tags = origin(first.parsed("device"), first.parsed("data_list"), own)
    tracking.start(sweep.name, tags, params=entries, folder=sweep.folder, resume=True, key=study.key)
    return Parent(tracking.uri, tracking.experiment, study.key)


def _close(tracking: Tracking, study: Study, results: Path, status: str) -> None:
    """Give the sweep's MLflow run the best trial's scores, and the tables; the step is how many trials have ended."""
    ended = counts(study)
    number = sum(ended.values())
    tracking.metrics({f"trials/{state}": count for state, count in ended.items()}, number)
    if best := ranked(study)[:1]:
        tracking.metrics(_scores_of(study, best[0]), number)
        tracking.tag(**{"sweep.best_trial": str(best[0].user_attrs["number"])})
    for file in (results, study.folder / "sweep.yaml"):
        tracking.artifact(file)
    tracking.end(status)


def _scores_of(study: Study, trial: FrozenTrial) -> dict[str, float]:
    """Return a trial's mean scores as a training calls them, so that a table of runs sorts a sweep as it does a run."""
    column = study.sweep.metric.removeprefix("val/")
    number = trial.user_attrs.get("same_as", trial.user_attrs["number"])
    file = study.folder / trial_name(study.sweep, number) / TABLES / "cases.csv"
    known = mean_scores(read_cases(file)) if file.is_file() else {}
    means = {name: value for name, value in known.items() if not math.isnan(value)} | {column: trial.value or 0.0}
    best = {f"best/{name}": means[name] for name in ("mean_dice", column) if name in means}
    return {f"val/{name}": value for name, value in means.items()} | best


def _report(study: Study, results: Path, tracking: Tracking) -> Path:
    """Print what the sweep came to, and make the page of its trials."""
    print_summary(study)
    print(f"all trials: {results}")
    if not ranked(study):
        reasons = {trial.user_attrs.get("reason", "stopped") for trial in study.trials()}
        raise InputError(f"no trial of the sweep '{study.sweep.name}' came to an end: {'; '.join(sorted(reasons))}")
    try:
        _compare(study, tracking)
    except Exception as error:  # a sweep is no worse without the page
        later = f"the sweep's command again, or python -m pipeline compare --experiment {tracking.experiment}"
        logger.warning("the trials were not compared: %s: %s. To do it later: %s", type(error).__name__, error, later)
    return results


def _compare(study: Study, tracking: Tracking) -> None:
    """Write what an outage has left of the trials, and make the page that compares them."""
    from pipeline.compare import compare

    if tracking.run_id is None:
        raise InputError(f"no MLflow server has answered at {tracking.uri}")
    if waiting := sorted({file.parent for file in study.folder.glob(f"*/{NAME}")}):
        sync(waiting, tracking.uri)
    compare(runs=[tracking.run_id], metric=study.sweep.metric, uri=tracking.uri, output=study.folder / "comparison")
