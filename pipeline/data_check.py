"""The verb `check`: look at a data list, say what is wrong, and keep a page and an MLflow run of it if asked."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from pipeline.data_figures import quantities
from pipeline.data_report import count_splits, number, write_report
from pipeline.datalists.check import Report, examine_cases
from pipeline.datalists.datalist import DataList, load_data_list
from pipeline.datalists.embedded import ensure_data
from pipeline.errors import InputError

logger = logging.getLogger(__name__)


def check_data_list(
    data_list: str | PathLike[str],
    dataset_dir: str | PathLike[str] | None = None,
    fold: int = 0,
    html: str | PathLike[str] | None = None,
    mlflow_uri: str | None = None,
    use_cache: bool = True,
    spacing: Sequence[float] | None = None,
) -> bool:
    """Look at every case of a list, print what was found, and return whether it is without a problem.

    Args:
        data_list: the JSON file.
        dataset_dir: the folder that its paths are relative to; without one `data/<name of the list>`.
        fold: which fold validates.
        html: a page to write, with histograms and a table of the cases.
        mlflow_uri: a store that gets a run "check <list>" in the experiment of the list's name.
        use_cache: trust earlier checks of the same bytes.
        spacing: mm per axis, from left to right, from back to front and upwards, that a network resamples volumes to;
            without it, a list of which all volumes have a wrong unit gets but a warning.
    """
    cases = load_data_list(data_list, strict=False)
    if spacing is not None and cases.spatial_dims != 3:
        raise InputError(f"'{cases.name}' has 2D images, which no spacing is for", remedy="leave out --spacing")
    folder = Path("data", cases.name) if dataset_dir is None else Path(dataset_dir)
    if not folder.is_dir() and cases.generator is None:
        raise InputError("is no folder", file=folder, remedy="give the folder of the images with --dataset_dir")
    ensure_data(cases, folder)
    report = examine_cases(cases, folder, fold=fold, spacing=spacing, use_cache=use_cache)
    print(describe(report))
    if html is not None:
        write_report(report, cases, html)
        print(f"wrote {html}")
    if mlflow_uri is not None:
        params = {"fold": str(fold), "data_list": str(data_list), "dataset_dir": str(folder)}
        if spacing is not None:
            params["spacing"] = " ".join(f"{edge:g}" for edge in spacing)
        track(report, cases, mlflow_uri, params)
    return not report.problems


def describe(report: Report) -> str:
    """Return a table of what the cases measure, and below it all problems and warnings."""
    known = f"; {report.unchanged} are as they were when last checked" if report.unchanged else ""
    lines = [
        f"data list '{report.name}' in '{report.dataset_dir}'",
        f"{report.cases} cases ({count_splits(report.splits.values())}){known}",
        f"{report.labelled} with a label, {report.with_foreground} of these with foreground",
        "",
        *_table(report),
    ]
    for kind, found in (("problem", report.problems), ("warning", report.warnings)):
        lines += ["", f"{len(found) or 'no'} {kind}{'s' * (len(found) != 1)}"]
        lines += [f"  {place}. {error}" for place, error in enumerate(found, 1)]
    return "\n".join(lines)


def track(report: Report, data_list: DataList, uri: str, params: dict[str, str]) -> None:
    """Keep page, fingerprints and counts as an MLflow run; a server that does not answer is said and no error.

    Args:
        report: what a check saw.
        data_list: the list; its name names the experiment, its digest becomes a tag.
        uri: the store.
        params: of the run.
    """
    from mlflow.exceptions import MlflowException

    from pipeline import provenance
    from pipeline.mlflow_store import open_run

    tags = provenance.tags() | {"data_list.content": data_list.digest, "kind": "check"}
    opened = open_run(uri, data_list.name, f"check {data_list.name}", tags, None, params)
    if opened is None:
        return
    client, run = opened.client, opened.run_id
    status = "FAILED"
    try:
        for name in ("cases", "labelled", "with_foreground", "problems", "warnings"):
            value = getattr(report, name)
            client.log_metric(run, name, value if isinstance(value, int) else len(value))
        with tempfile.TemporaryDirectory() as folder:
            page, numbers = Path(folder, "report.html"), Path(folder, "fingerprint.json")
            write_report(report, data_list, page)
            numbers.write_text(json.dumps(report.document, indent=1), encoding="utf-8")
            client.log_artifacts(run, folder)
        status = "FINISHED"
    except MlflowException as error:
        logger.warning("the check was not written to MLflow at %s: %s", uri, str(error).splitlines()[0])
    finally:
        client.set_terminated(run, status)
    print(f"MLflow run {run} at {uri}")


def _table(report: Report) -> list[str]:
    rows = [["", "smallest", "median", "largest"]]
    for quantity in quantities(report.fingerprints):
        unit = f" ({quantity.unit})" if quantity.unit else ""
        rows += [[f"{quantity.title}{unit}: {name}", *map(number, values)] for name, *values in quantity.rows]
    if len(rows) == 1:
        return ["no case could be read"]
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    return [
        row[0].ljust(widths[0]) + "".join(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
