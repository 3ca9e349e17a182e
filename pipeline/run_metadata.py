"""What a run's metadata.json says: the words about its data come from its data list, the rest from its config."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.datalists.datalist import DataList, load_data_list
from pipeline.volumes.reading import SUFFIXES

# What a bundle's author says of the bundle's own data and purpose, which no list of cases can say of other data.
OF_OTHER_DATA = ("intended_use",)
NORMALISED_BY = ("normalisation", "preprocessing")  # the setting that holds the steps, in the order of looking


def describe_run(
    bundle: Mapping[str, Any],
    config: Mapping[str, Any],
    network: Any,
    data_list: str | Path | None = None,
    scores: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the metadata of a run: those of its bundle, with what this run's data, config and network say instead.

    Args:
        bundle: the bundle's metadata; what is about neither data nor config stands.
        config: the merged config, nothing resolved.
        network: the network, whose channels and sizes are told where it knows them.
        data_list: the list of cases; without one the bundle's words about its data stand.
        scores: the validation's `summary`, whose means become `eval_metrics`; None before there are any.
    """
    metadata = json.loads(json.dumps(bundle))
    cases = None if data_list is None else load_data_list(data_list)
    for part, entries in metadata.get("network_data_format", {}).items():
        for entry in entries.values():
            entry |= _tensor_format(part, config, network, cases)
            if len(entry.get("channel_def", ())) != entry.get("num_channels"):
                entry.pop("channel_def", None)  # names of other channels
    if config.get("class_names"):
        metadata["pred_classes"] = _predicted(config)
    if cases is not None:
        metadata = {key: value for key, value in metadata.items() if key not in OF_OTHER_DATA}
        metadata |= _words_about(cases, config)
    return metadata | {"eval_metrics": _means(scores)}


def _words_about(cases: DataList, config: Mapping[str, Any]) -> dict[str, str]:
    """What the metadata say in words, of a data list."""
    found = list(config.get("regions") or config.get("class_names") or cases.classes)
    channels = f"{len(cases.channels)} channel{'s' * (len(cases.channels) > 1)}: {', '.join(cases.channels)}"
    numbered = f"0 {cases.classes[0]}, every other value one {cases.classes[-1]}"
    formats = {_suffix(file) for case in cases.cases for file in case.images}
    return {
        "task": f"Semantic segmentation of {cases.spatial_dims}D images",
        "description": f"Segments {cases.spatial_dims}D images into {_listed(found)}. "
        f"Trained on the data list '{cases.name}': {cases.description}",
        "data_source": f"{cases.source} (data list '{cases.name}', licence {cases.licence})",
        "data_type": f"files as the data list names them: {', '.join(sorted(formats))}",
        "image_classes": f"{channels}; {_normalisation(config)}",
        "label_classes": numbered if cases.label_kind == "instances" else _numbered(cases.classes),
    }


def _suffix(file: str) -> str:
    return next((suffix for suffix in SUFFIXES if file.lower().endswith(suffix)), "DICOM")


def _predicted(config: Mapping[str, Any]) -> str:
    """What the outputs stand for: "0 background, 1 cell", or regions that overlap and the labels that make them."""
    if regions := config.get("regions"):
        made_of = (f"{name} (labels {', '.join(map(str, labels))})" for name, labels in regions.items())
        return f"regions that may overlap: {', '.join(made_of)}"
    return _numbered(config["class_names"])


def _normalisation(config: Mapping[str, Any]) -> str:
    """The steps that images pass before the network, by name and arguments as the config has them."""
    held = next((config[key] for key in NORMALISED_BY if config.get(key)), None)
    steps = held.get("transforms") if isinstance(held, Mapping) else held
    named = [_step(step, config) for step in steps if isinstance(step, Mapping)] if isinstance(steps, list) else []
    named = [name for name in named if not name.startswith("StrictLoadImaged")]
    return "normalised by " + ", ".join(named) if named else "prepared as configs/train.json says"


def _step(step: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """A component in words: "NormalizeIntensityd(nonzero=True)"; "@spacing" is given as what it refers to."""
    given = {key: value for key, value in step.items() if key not in ("_target_", "keys")}
    plain = {key: config.get(value[1:], value) if str(value).startswith("@") else value for key, value in given.items()}
    arguments = ", ".join(f"{key}={value}" for key, value in plain.items())
    return str(step.get("_target_", "")).rpartition(".")[2] + (f"({arguments})" if arguments else "")


def _tensor_format(part: str, config: Mapping[str, Any], network: Any, cases: DataList | None) -> dict[str, Any]:
    """What is known of the network's "inputs" or "outputs": channels, their names, and the sizes that it takes."""
    channels = getattr(network, "in_channels" if part == "inputs" else "out_channels", None)
    found: dict[str, Any] = {} if channels is None else {"num_channels": channels}
    names: Sequence[str] = []
    if part == "outputs":
        classes = config.get("class_names", [])
        names = list(config.get("regions") or (classes[1:] if channels == 1 else classes))  # one is the foreground
    elif cases is not None:
        names = cases.channels
        found["modality"] = ", ".join(names)
    if names and channels == len(names):
        found["channel_def"] = {str(index): name for index, name in enumerate(names)}
    if hasattr(network, "valid_input_size"):
        found["spatial_shape"] = list(_spatial_shape(network, part))
    return found


def _spatial_shape(network: Any, part: str) -> Iterator[str]:
    """The sizes that a network takes ("inputs") or gives, as MONAI writes them: 16*n+172 and 16*n-12 in the paper.

    A padded one has two voxels or more on its lowest level, for an instance norm of one is undefined.
    """
    smallest = network.valid_input_size(1)
    lost = network.margin if part == "outputs" else [0] * len(smallest)
    for step, least, cut, margin in zip(network.divisor, smallest, lost, network.margin, strict=True):
        yield f"{step}*n{least - cut - step:+d}" if margin else f"{2 * step}*n"


def _means(scores: Mapping[str, Any] | None) -> dict[str, float]:
    """The validation's means by their names in MLflow, such as "val/mean_dice"; what is n/a is left out."""
    found = (scores or {}).get("scores", {})
    return {f"val/{name}": score["mean"] for name, score in found.items() if "mean" in score}


def _numbered(names: Sequence[str]) -> str:
    return ", ".join(f"{index} {name}" for index, name in enumerate(names))


def _listed(names: Sequence[str]) -> str:
    """["a", "b", "c"] as "a, b and c"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
