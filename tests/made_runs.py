"""Runs in an MLflow store as training and evaluation leave them, made in milliseconds."""

import json
import tempfile
from pathlib import Path

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from pipeline.handlers.evaluation_report import table
from pipeline.slices import write_slices

DIGEST = "d" * 64


def made_run(
    client: MlflowClient,
    experiment: str,
    name: str,
    scores=None,
    split="validation",
    params=None,
    tags=None,
    parent=None,
    digest=DIGEST,
    history=(),
    slices=None,
    data_list=None,
    status="FINISHED",
    contents=None,
):
    """Make a run and return its id.

    `scores` are by case: a number is the mean Dice and that of the one class, a mapping is a row of the table.
    `contents` are by case the digests of its files; a text is that of all.
    """
    found = client.get_experiment_by_name(experiment)
    key = found.experiment_id if found else client.create_experiment(experiment)
    tags = {"data_list.digest": digest, "mlflow.parentRunId": parent, **(tags or {})}
    tags = {tag: str(value) for tag, value in tags.items() if value is not None}
    run = client.create_run(key, run_name=name, tags=tags).info.run_id
    rows = [{"case": case, **row_of(value)} for case, value in (scores or {}).items()]
    if contents is not None:
        rows = [{**row, "data": contents if isinstance(contents, str) else contents[row["case"]]} for row in rows]
    metrics = [Metric(f"val/{metric}", value, 0, step) for metric, step, value in history]
    if rows:
        values = [row["mean_dice"] for row in rows if row.get("mean_dice") == row.get("mean_dice")]
        mean = sum(values) / max(len(values), 1)
        metrics.append(Metric("best/mean_dice" if split == "validation" else f"{split}/mean_dice", mean, 0, 0))
    entries = [Param(setting, str(value)) for setting, value in (params or {}).items()]
    client.log_batch(run, metrics=metrics, params=entries, tags=[RunTag("mlflow.user", "tester")])
    with tempfile.TemporaryDirectory() as folder:
        if rows:
            (Path(folder) / "cases.csv").write_text(table(rows))
            client.log_artifact(run, f"{folder}/cases.csv", f"evaluation/{split}")
        if slices:
            write_slices(Path(folder) / "slices.npz", slices)
            client.log_artifact(run, f"{folder}/slices.npz", f"evaluation/{split}")
        if data_list is not None:
            (Path(folder) / "data_list.json").write_text(json.dumps({"cases": data_list}))
            client.log_artifact(run, f"{folder}/data_list.json", "bundle/configs")
    client.set_terminated(run, status)
    return run


def row_of(value):
    return value if isinstance(value, dict) else {"mean_dice": float(value), "dice/cell": float(value)}
