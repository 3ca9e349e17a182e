"""`python -m pipeline sweep`: from the file to the table of the best."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import InputError
from pipeline.handlers.mlflow_run import origin
from pipeline.sweeps.config_check import Training, check_config
from pipeline.sweeps.results import counts, print_summary, ranked, write_table
from pipeline.sweeps.study import Study
from pipeline.sweeps.sweep_file import Sweep, read_sweep
from pipeline.sweeps.trial import Parent
from pipeline.sweeps.work import stopped_by_sigterm, work, work_in_processes
from pipeline.tracking import Tracking
from pipeline.volumes.atomic import atomic_write_text

logger = logging.getLogger(__name__)


def run_sweep(file: str | Path, workers: int = 1, trials: int | None = None) -> Path:
    """Train what a sweep file describes; continue the sweep where it was begun already. Return the table of results.

    The file is checked as a whole before the first trial. The sweep's folder `<output_dir>/<name>/` has the study, the
    file, `results.csv` and a run folder for each training. Its MLflow run has those of the trials beneath it.

    Args:
        file: YAML; `sweeps/example.yaml` names all keys.
        workers: processes that train at the same time; 1 trains in this one.
        trials: how many, instead of what the file says.
    """
    if workers < 1:
        raise InputError(f"{workers} workers", remedy="give a whole number, 1 or more")
    sweep = read_sweep(file, trials)
    first = check_config(sweep, file)
    with _only_one(sweep), stopped_by_sigterm():
        study = Study(sweep)
        study.begin()
        atomic_write_text(sweep.folder / "sweep.yaml", Path(file).read_text())
        store = first.parsed("mlflow")
        tracking = Tracking(store.uri, store.experiment, system_metrics_every=0)
        parent = _open(tracking, study, first)
        status = "KILLED"
        try:
            if workers == 1:
                work(sweep, parent)
            else:
                work_in_processes(study, parent, workers)
            status = "FINISHED" if ranked(study) else "FAILED"
        except (KeyboardInterrupt, SystemExit) as stop:
            logger.warning("stopped; the same command continues the sweep")
            raise SystemExit(130 if isinstance(stop, KeyboardInterrupt) else stop.code) from None
        finally:
            results = write_table(study)
            _close(tracking, study, results, status)
        return _report(study, results, parent)


@contextmanager
def _only_one(sweep: Sweep) -> Iterator[None]:
    """Hold the sweep's folder: what is still running in the study then, was cut short."""
    sweep.folder.mkdir(parents=True, exist_ok=True)
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
    known = study.attributes.get("mlflow_run_id") if study.attributes.get("mlflow_uri") == tracking.uri else None
    run_id = tracking.start(sweep.name, tags, known, entries)
    if run_id is not None:
        study.remember(mlflow_run_id=run_id, mlflow_uri=tracking.uri)
    return Parent(tracking.uri, tracking.experiment, run_id)


def _close(tracking: Tracking, study: Study, results: Path, status: str) -> None:
    """Give the sweep's MLflow run the best value, and the tables."""
    column = study.sweep.metric.removeprefix("val/")
    number = len(study.trials())
    tracking.metrics({f"trials/{state}": count for state, count in counts(study).items()}, number)
    if best := ranked(study)[:1]:
        value = best[0].value or 0.0
        tracking.metrics({f"val/{column}": value, f"best/{column}": value}, number)
        tracking.tag(**{"sweep.best_trial": str(best[0].user_attrs["number"])})
    for file in (results, study.folder / "sweep.yaml"):
        tracking.artifact(file)
    tracking.end(status)


def _report(study: Study, results: Path, parent: Parent) -> Path:
    """Print what the sweep came to, and make the page of its trials."""
    print_summary(study)
    print(f"all trials: {results}")
    if not ranked(study):
        reasons = {trial.user_attrs.get("reason", "stopped") for trial in study.trials()}
        raise InputError(f"no trial of the sweep '{study.sweep.name}' came to an end: {'; '.join(sorted(reasons))}")
    if parent.run_id is not None:
        _compare(study, parent.uri, parent.run_id)
    return results


def _compare(study: Study, uri: str, run_id: str) -> None:
    """Make the page that compares the trials; a sweep is no worse where that fails."""
    try:
        from pipeline.compare import compare

        compare(runs=[run_id], metric=study.sweep.metric, uri=uri, output=study.folder / "comparison")
    except Exception as error:
        logger.warning("the trials were not compared: %s: %s", type(error).__name__, error)
