"""Write to MLflow what runs could not: their server was down, or they were killed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from mlflow.exceptions import MlflowException

from pipeline.errors import InputError
from pipeline.feeder import Feeder
from pipeline.journal import NAME, BusyError, Journal
from pipeline.mlflow_store import find_again, first_line, store_refuses
from pipeline.mlflow_writer import MLflowWriter
from pipeline.run_folder import read_facts
from pipeline.volumes.atomic import atomic_write_text

PATTERN = f"{Path(NAME).stem}*.journal"  # with those that were set aside


class Synced(NamedTuple):
    """What became of a journal: how many entries were written, to which MLflow run of which store, and its end."""

    journal: Path
    entries: int
    run_id: str
    uri: str
    status: str


def sync(runs: Sequence[str | Path] = (), uri: str | None = None, output_dir: str | Path = "runs") -> list[Synced]:
    """Write the journals of runs to their store, close the runs as they ended, and print and return what was written.

    A sync that is killed is simply done again: what the store has is not written twice. A run that is still training
    is refused; without names it is left out, for it writes by itself. One run that fails stops no other.

    Args:
        runs: folders of runs; without any, `output_dir`.
        uri: another store than the one that the runs were meant for, or the same one at its new address.
        output_dir: the folder of all runs.
    """
    done: list[Synced] = []
    failed: list[InputError] = []
    for folder, journals in _found(runs or [output_dir]).items():
        try:
            with _alone(folder):
                for journal in journals:
                    done.append(_write(journal, folder, uri))
                    print("{0.journal}: {0.entries} entries to run {0.run_id} at {0.uri}: {0.status}".format(done[-1]))
        except BusyError as error:
            if runs:
                failed.append(error)
            else:
                print(f"left out: {error}")
        except InputError as error:
            failed.append(error)
    for problem in failed[:-1]:
        print(f"error: {problem}")
    if failed:
        raise failed[-1]
    if not done:
        print("MLflow has everything already")
    return done


def _found(places: Sequence[str | Path]) -> dict[Path, list[Path]]:
    """Return the journals of each run in some folders, those that were set aside, which are older, first."""
    found: dict[Path, list[Path]] = {}
    for place in map(Path, places):
        if not place.is_dir():
            raise InputError(f"there is no folder '{place}'", remedy="give the folder of a run, or of runs")
        for journal in sorted(place.rglob(PATTERN), key=lambda file: (file.name == NAME, file)):
            found.setdefault(_run_of(journal), []).append(journal)
    return dict(sorted(found.items()))


def _run_of(journal: Path) -> Path:
    """Return the run's folder: an evaluation's journal lies deeper in it."""
    return next((folder for folder in journal.parents if (folder / "run.json").is_file()), journal.parent)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a run's folder, so that no training of it and no other sync goes on meanwhile."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        reason = f"the run '{folder}' is being trained or synced by another process"
        raise BusyError(reason, remedy="wait for it: a training writes by itself what its server has missed") from None
    except OSError as error:
        reason = f"nothing can be written here ({error.strerror})"
        raise InputError(reason, file=folder, remedy="correct the folder's permissions, or make room") from error
    try:
        yield
    finally:
        lock.release()


def _write(file: Path, folder: Path, uri: str | None) -> Synced:
    """Write one journal, and delete it."""
    stopped = file.stat().st_mtime_ns // 1_000_000
    journal = Journal(file)
    try:
        contents = [entry.content for entry in journal.entries()]
        opening = [content for content in contents if content["kind"] == "open"]
        if not opening:
            raise InputError("the journal does not say which run it is of", file=file, remedy="delete it")
        store = str(uri or journal.facts.get("uri") or opening[-1]["uri"])
        writer = MLflowWriter(store, file.parent, _known_run(journal, folder, store))
        _check(journal, writer)
        count, status = journal.count, str(contents[-1].get("status", "KILLED"))
        _feed(journal, writer, None if "status" in contents[-1] else stopped)
    except BaseException:
        journal.close()
        raise
    run_id = str(writer.run_id or journal.facts["run_id"])
    if file == folder / NAME:
        _remember(folder, mlflow_run_id=run_id, mlflow_uri=store, mlflow_experiment=opening[-1]["experiment"])
    journal.delete()
    return Synced(file, count, run_id, store, status)


def _known_run(journal: Journal, folder: Path, store: str) -> str | None:
    """Return the MLflow run that the entries go to, None for one that is yet to be opened."""
    facts = read_facts(folder) if journal.file == folder / NAME else {}
    there = facts.get("mlflow_run_id") if facts.get("mlflow_uri") == store else None
    return journal.facts.get("run_id") or there


def _check(journal: Journal, writer: MLflowWriter) -> None:
    """Refuse a store that does not answer, or that lacks the run of which it should have the beginning."""
    run_id = journal.facts.get("run_id")
    if not writer.answers():
        raise InputError(f"no MLflow server answers at {writer.uri}", remedy="start it, or give another --uri")
    try:
        if run_id is not None:
            find_again(writer.uri, run_id)
    except MlflowException as error:
        if error.get_http_status_code() != 404:
            raise store_refuses(writer.uri, first_line(error)) from error
        reason = f"the store '{writer.uri}' does not know the run {run_id}, of which the journal is the rest"
        remedy = f"give the --uri of the store that has it; it was {journal.facts.get('uri')}"
        raise InputError(reason, file=journal.file, remedy=remedy) from error


def _feed(journal: Journal, writer: MLflowWriter, killed_at: int | None) -> None:
    """Write what waits; a run that was killed, and could not say so, is closed as such."""
    feeder = Feeder(journal, writer.write, writer.answers)
    try:
        if killed_at is not None:
            feeder.put({"kind": "end", "time": killed_at, "status": "KILLED"})
        lacking = feeder.close(lambda: True)
    finally:
        feeder.close(lambda: False, look_every=0)
    if lacking:
        reason = f"the MLflow store '{writer.uri}' has not taken all of it: {feeder.reason}"
        remedy = "sync again later: nothing is lost, and nothing is written twice"
        raise InputError(reason, file=journal.file, remedy=remedy)


def _remember(folder: Path, **facts: Any) -> None:
    """Let a run's folder know its MLflow run, so that a resumed training continues it."""
    known: Mapping[str, Any] = read_facts(folder)
    if known and known.get("mlflow_run_id") != facts["mlflow_run_id"]:
        atomic_write_text(folder / "run.json", json.dumps({**known, **facts}, indent=2) + "\n")
