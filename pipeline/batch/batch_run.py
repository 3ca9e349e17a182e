"""A batch as a run in MLflow: what was predicted with, and where the time went."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from pipeline import provenance
from pipeline.batch.clock import STAGES
from pipeline.stop_signals import stopped_by_signals

logger = logging.getLogger(__name__)

EXPERIMENT = "predictions"
STOPPED_WITHIN = 5  # seconds that a stop waits for the store


def log_batch(
    params: Mapping[str, Any], seconds: Mapping[str, float], elapsed: float, summary: str | PathLike[str]
) -> str | None:
    """Keep a batch that has ended as a run in the store of `MLFLOW_TRACKING_URI`; return its id.

    A store that does not answer or refuses loses this run and no more: it is said, and None returned. Ctrl-C, SIGTERM
    or SIGHUP comes after the run has been written, if that takes no more than a moment.

    Args:
        params: such as `model`, `precision`, `cases`.
        seconds: by stage, of all cases together: the metrics `time/read`, `time/forward`, ...
        elapsed: seconds from the batch's begin to its end: `time/batch`.
        summary: the table of the cases, an artifact.
    """
    written = threading.Event()
    runs: list[str | None] = []

    def write() -> None:
        try:
            runs.append(_write(params, seconds, elapsed, summary))
        finally:
            written.set()

    with stopped_by_signals():
        # In a thread, which no signal reaches: an interrupted SQLite session keeps its lock, and the run stays RUNNING.
        threading.Thread(target=write, name="mlflow-batch", daemon=True).start()
        try:
            written.wait()
        except (KeyboardInterrupt, SystemExit):
            written.wait(STOPPED_WITHIN)
            raise
    return runs[0] if runs else None


def _write(
    params: Mapping[str, Any], seconds: Mapping[str, float], elapsed: float, summary: str | PathLike[str]
) -> str | None:
    from mlflow.entities import Metric  # MLflow takes seconds to import

    from pipeline.mlflow_store import first_line, open_run, store_of

    uri = store_of(None)
    tags = provenance.tags() | {"kind": "prediction"}
    texts = {key: str(value) for key, value in params.items()}
    values = {f"time/{stage}": seconds.get(stage, 0.0) for stage in STAGES} | {"time/batch": elapsed}
    try:
        opened = open_run(uri, EXPERIMENT, Path(summary).absolute().parent.name, tags, None, texts)
        if opened is None:
            return None
        client, run = opened.client, opened.run_id
        now = int(time.time() * 1000)
        client.log_batch(run, metrics=[Metric(key, value, now, 0) for key, value in values.items()])
        client.log_artifact(run, str(summary))
        client.set_terminated(run, "FINISHED")
    except Exception as error:  # the batch itself is done, whatever a store's failure comes to
        logger.warning("the batch was not written to MLflow at %s: %s", uri, first_line(error))
        return None
    logger.info("MLflow run %s at %s", run, uri)
    return run
