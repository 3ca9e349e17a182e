"""What a system's predictions are worth, by this project's own measures, the same for all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from versus_job import Job

from pipeline.metrics.instance_scores import average_precision
from pipeline.metrics.overlap import dice
from pipeline.metrics.pixel_error import pixel_error
from pipeline.metrics.rand_error import rand_error
from pipeline.metrics.vrand import vrand
from pipeline.transforms.instances import components, numbered
from pipeline.transforms.instances_to_mask import separate_instances
from pipeline.volumes.reading import read_volume

THRESHOLDS = tuple(step / 10 for step in range(1, 10))  # of P(cell), of which the measures take the best
LEAST_OBJECT = 10  # pixels, as in post_components.yaml
LABEL_FILES = (".png", ".nii.gz")
Labels = NDArray[np.integer[Any]]


def scores(job: Job) -> dict[str, float]:
    """Score what lies in the job's predictions against the labels of the test cases."""
    return SCORES[job.cases.name](job)


def overlap(job: Job) -> dict[str, float]:
    """Mean Dice over the classes above the background and the cases, each on the grid of its file."""
    classes = len(job.cases.classes)
    rows = [dice(true_labels(job, case), predicted_labels(job, case), classes) for case in job.records("test")]
    return {"dice": float(np.nanmean(np.array(rows)[:, 1:]))}


def membranes(job: Job) -> dict[str, float]:
    """The measures of the ISBI 2012 challenge, of all slices as one stack with one threshold."""
    cases = job.records("test")
    truth = np.stack([true_labels(job, case) > 0 for case in cases])
    found = np.stack([np.load(job.predictions / f"{case['id']}.npy") for case in cases]).astype(np.float32)
    measures = {"rand_error": rand_error, "pixel_error": pixel_error, "vrand": vrand}
    return {name: measure(truth, found, THRESHOLDS) for name, measure in measures.items()}


def objects(job: Job) -> dict[str, float]:
    """Dice of the mask that all systems learn, and average precision of the components of what they predict."""
    rows = []
    for case in job.records("test"):
        truth, found = true_labels(job, case), predicted_labels(job, case) > 0
        precision = average_precision(truth, numbered(components(found), LEAST_OBJECT), (0.5,))
        rows.append((dice(separate_instances(truth) > 0, found, 2)[1], precision))
    means = np.nanmean(rows, axis=0)
    return {"dice": float(means[0]), "ap50": float(means[1])}


SCORES: dict[str, Callable[[Job], dict[str, float]]] = {
    "hippocampus": overlap,
    "membranes": membranes,
    "nuclei": objects,
}
TITLES = {"dice": "Dice", "rand_error": "Rand error", "pixel_error": "pixel error", "vrand": "V-Rand", "ap50": "AP 0.5"}


def true_labels(job: Job, case: dict[str, Any]) -> Labels:
    """The label map of a case as its file has it, without the axis of channels."""
    return read_volume(case["label"], job.cases.spatial_dims, case["id"], "label").array[0]


def predicted_labels(job: Job, case: dict[str, Any]) -> Labels:
    """The label map that was left for a case, on the grid of its truth."""
    file = label_file(job.predictions, case["id"])
    return read_volume(file, job.cases.spatial_dims, case["id"], "label").array[0]


def label_file(folder: Path, name: str) -> Path:
    """The label map of a case in a folder."""
    return next(file for suffix in LABEL_FILES if (file := folder / f"{name}{suffix}").is_file())
