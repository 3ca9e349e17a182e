"""Whether bfloat16 keeps the labels that a network gives in float32: measured on images, kept beside its weights."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from monai.utils import convert_to_numpy

from pipeline.batch.inputs import find_inputs
from pipeline.errors import InputError
from pipeline.handlers.load_weights import load_weights, weights_file
from pipeline.label_slabs import predict_labels, split_voxelwise
from pipeline.metrics.overlap import overlap_counts
from pipeline.networks.precision import for_prediction, has_bfloat16
from pipeline.provenance import digest
from pipeline.settings import WHERE_NOT_WHAT
from pipeline.trust import check_config
from pipeline.volumes.atomic import write_json

logger = logging.getLogger(__name__)

LEAST_DICE = 0.999  # of bfloat16's labels to those of float32, for each class and their mean
LEAST_OF_A_CASE = 0.99  # a small object of one case may lose a few voxels of its rim
CASES = 8
NEEDED = {"network_def", "preprocessing", "inferer", "postprocessing", "class_names"}
HOW_IT_RUNS = {"_meta_", "imports", "inference", "initialize", "run"}  # and what begins with `save_` or `zarr_`


def why_not_proven(weights: str | Path, settings: Mapping[str, Any] | None = None) -> str | None:
    """Return why bfloat16 may change the labels of these weights, None where a record proves that it does not.

    Args:
        weights: the file that the record lies beside.
        settings: the config that predicts, if it may be another than the bundle's own.
    """
    file = _file(weights)
    try:
        found = json.loads(file.read_text())
        scores = {name: _score(found["dice"].get(name)) for name in found["classes"]}
        scores["all"], least = _score(found["mean"]), _score(found["least"])
    except OSError:
        return "no record proves that bfloat16 keeps the labels of these weights"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"the record '{file}' is damaged"
    if found.get("weights") != digest(weights):
        return f"the record '{file}' is about other weights"
    if settings is not None and found.get("settings") != settings_digest(settings):
        return f"the record '{file}' was made with other settings"
    for name, score in scores.items():
        if score is None:
            return f"no image that the record '{file}' was made of shows '{name}'"
        if score < LEAST_DICE:
            return f"bfloat16 changes labels: the Dice of '{name}' to float32 is {score:.4f}, below {LEAST_DICE}"
    if least is None or least < LEAST_OF_A_CASE:
        return f"bfloat16 changes labels: in one case the Dice to float32 is {least}, below {LEAST_OF_A_CASE}"
    return None


def settings_digest(config: Mapping[str, Any]) -> str:
    """Return what tells a config from others that give other labels: the SHA-256 of all that decides on these."""
    kept = {key: _deciding(value) if key == "predictor" else value for key, value in _deciding(config).items()}
    written = json.dumps(kept, sort_keys=True, default=str).replace("#", "::")  # MONAI knows both
    return hashlib.sha256(written.encode()).hexdigest()


def _deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config, or of its predictor, decides on labels; which image is read does not change how."""
    others = WHERE_NOT_WHAT | HOW_IT_RUNS
    return {key: value for key, value in config.items() if key not in others and not key.startswith(("save_", "zarr_"))}


def _score(value: Any) -> float | None:
    """A Dice as it stands in a record, None where there is none; a ValueError for anything else."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is no Dice")
    return float(value)


def record_precision(bundle: Path, cases: Sequence[Mapping[str, Any]], device: torch.device | str) -> Path | None:
    """Measure a bundle's weights on images, write the record beside them, and return its path.

    Where the device computes no bfloat16, or no image shows any object, nothing is proven and nothing is written.

    Args:
        bundle: holds `configs/inference.json` and `models/model.pt`.
        cases: records with the path, or the paths, of an `image`; of more than `CASES`, so many that lie evenly.
        device: where to compute.
    """
    if not has_bfloat16(device):
        return None
    config = ConfigParser.load_config_file(str(bundle / "configs" / "inference.json"))
    if missing := sorted(NEEDED - config.keys()):
        logger.warning("no record of the precision: the inference config has no %s", ", ".join(missing))
        return None
    parser = ConfigParser(config)
    parser.update({"bundle_root": str(bundle), "device": str(device)})
    weights = weights_file(bundle / "models" / "model.pt")
    network = load_weights(weights, parser.get_parsed_content("network_def")).to(device).eval()
    chosen = [cases[number] for number in np.unique(np.linspace(0, len(cases) - 1, CASES).round().astype(int))]
    counts = np.stack(list(_overlaps(parser, network, chosen, device)))
    names = dict(enumerate(parser.get_parsed_content("class_names")))
    found = _scores(counts, names)
    if not found["dice"]:
        logger.warning("no record of the precision: none of %d images shows an object", len(chosen))
        return None
    about = {"weights": digest(weights), "settings": settings_digest(config), "cases": len(chosen)}
    classes = [name for label, name in names.items() if label > 0]
    write_json(_file(weights), {**about, "classes": classes, **found})
    return _file(weights)


def prove(bundle: str | Path, input_dir: str, device: str | None = None, trust: bool = False) -> str:
    """Measure a bundle's weights on the images of a folder, and return in words what came of it.

    Args:
        bundle: a run's folder, or another bundle with weights.
        input_dir: the folder, or what else `find_inputs` takes.
        device: where to compute.
        trust: run whatever the config says; else only what `pipeline.trust` knows to be harmless.
    """
    folder = Path(bundle)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not has_bfloat16(device):
        raise InputError(f"'{device}' computes no bfloat16", remedy="predict in float32, or measure on another machine")
    file = folder / "configs" / "inference.json"
    if not file.is_file():
        remedy = "name a run's folder, or a bundle such as bundles/unet"
        raise InputError("this folder is no bundle", file=file, remedy=remedy)
    parser = ConfigParser(ConfigParser.load_config_file(str(file)))
    if not trust:
        check_config(parser, file)
    channels, axes = (parser.get_parsed_content(key) for key in ("in_channels", "spatial_dims"))
    found = find_inputs(input_dir, None, channels, spatial_dims=axes)
    cases = [{"id": entry.case, "image": [str(path) for path in entry.files]} for entry in found if not entry.problem]
    if not cases:
        raise InputError("none of the images can be read", file=input_dir, remedy="name a folder of images")
    record = record_precision(folder, cases, device)
    if record is None:
        reason = "nothing could be measured: none of these images shows an object, or the config lacks what predicts"
        raise InputError(reason, file=input_dir, remedy="name images that do, and a bundle of this project's shape")
    problem = why_not_proven(weights_file(folder / "models" / "model.pt"))
    return f"wrote {record}: {problem or 'predictions on such a device will be in bfloat16'}"


def _file(weights: str | Path) -> Path:
    return Path(weights).with_name("precision.json")


def _overlaps(
    parser: Any, network: torch.nn.Module, cases: Sequence[Mapping[str, Any]], device: torch.device | str
) -> Iterator[np.ndarray]:
    """Yield for each case the voxels of each class: in both label maps, in that of float32, in that of bfloat16."""
    preprocessing, inferer = parser.get_parsed_content("preprocessing"), parser.get_parsed_content("inferer")
    voxelwise, others = split_voxelwise(parser.get_parsed_content("postprocessing"))
    classes = len(parser.get_parsed_content("class_names"))
    formats = [for_prediction(network, dtype) for dtype in (torch.bfloat16, torch.float32)]
    for case in cases:
        item = preprocessing({"id": case.get("id", ""), "image": case["image"]})
        done = [Compose(others)(predict_labels(item, each, inferer, voxelwise, device)) for each in formats]
        narrow, wide = (convert_to_numpy(labels["pred"]) for labels in done)
        yield overlap_counts(wide, narrow, classes)


def _scores(counts: np.ndarray, names: Mapping[int, str]) -> dict[str, Any]:
    """Return each foreground class's Dice as the mean of the cases that have it, their mean, and the least of a case.

    Args:
        counts: (cases, classes, 3), voxels in both label maps, in the first, in the second.
        names: of the classes, by label.
    """
    both, first, second = np.moveaxis(counts, -1, 0)
    dice = np.where(first + second > 0, 2 * both / np.maximum(first + second, 1), np.nan)
    seen = [label for label in names if label > 0 and not np.isnan(dice[:, label]).all()]
    by_class = {names[label]: float(np.nanmean(dice[:, label])) for label in seen}
    if not by_class:
        return {"dice": {}}
    return {"dice": by_class, "mean": float(np.mean(list(by_class.values()))), "least": float(np.nanmin(dice[:, seen]))}
