"""A model repository for Triton: `<repository>/<name>/config.pbtxt`, `1/model.onnx`, `labels.txt`, `README.md`."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.label_slabs import steps_of
from pipeline.provenance import digest
from pipeline.serving.onnx_file import write_onnx
from pipeline.serving.served_bundle import ServedBundle
from pipeline.transforms.regions import written_labels
from pipeline.volumes.atomic import atomic_write_bytes, atomic_write_text

LARGEST_BATCH = 8  # windows of several clients that may be computed at once
LONGEST_WAIT = 2000  # microseconds that a window waits for others
KINDS = {None: "KIND_AUTO", "cpu": "KIND_CPU", "cuda": "KIND_GPU"}


def write_repository(
    bundle: ServedBundle, repository: Path, name: str | None = None, device: str | None = None
) -> Path:
    """Write a bundle's network into a model repository, and return the model's folder.

    The server computes logits (N, K, *size) of windows (N, C, *size) of any size, which the client has preprocessed.
    What that takes is told in `README.md` and, for programs, in the config's `parameters`.

    Args:
        bundle: the trained network and its configs.
        repository: the folder that Triton is started with; it may hold other models.
        name: of the model (that of the bundle's metadata).
        device: "cpu" or "cuda"; None leaves it to the server.
    """
    name = name or str(bundle.metadata["name"])
    if not re.fullmatch(r"[\w.-]+", name, re.ASCII) or not name.strip("."):
        raise InputError(f"'{name}' is no name of a model", file="name", remedy="use letters, digits, and any of _ . -")
    if device not in KINDS:
        raise InputError(f"a server computes on 'cpu' or 'cuda', not on '{device}'", file="device")
    folder = repository / name
    if folder.exists():
        remedy = "remove it, or give another --name"
        raise InputError("there is a model of this name, which a server may be using", file=folder, remedy=remedy)
    told = parameters(bundle)
    with tempfile.TemporaryDirectory() as scratch:
        model = write_onnx(bundle.network, Path(scratch) / "model.onnx", bundle.key("inputs"), bundle.key("outputs"))
        atomic_write_bytes(folder / "1" / "model.onnx", model.read_bytes())
    atomic_write_text(folder / "labels.txt", "".join(f"{label}\n" for label in bundle.class_names))
    atomic_write_text(folder / "README.md", _readme(bundle, name, told))
    atomic_write_text(folder / "config.pbtxt", config_text(bundle, name, device, told))  # last: it makes a model of it
    return folder


def config_text(bundle: ServedBundle, name: str, device: str | None, told: Mapping[str, str]) -> str:
    """Return a model's configuration, in protobuf's text format.

    Args:
        bundle: the network and its configs.
        name: of the model.
        device: a key of `KINDS`.
        told: what a client has to know, by key.
    """
    sizes = [-1] * bundle.spatial_dims
    tensors = [
        (direction, bundle.key(part), [bundle.channels(part), *sizes], labels)
        for direction, part, labels in (("input", "inputs", ""), ("output", "outputs", "labels.txt"))
    ]
    lines = [f"name: {_quoted(name)}", 'backend: "onnxruntime"', f"max_batch_size: {LARGEST_BATCH}"]
    for direction, key, dims, labels in tensors:
        lines += [f"{direction} {{", f"  name: {_quoted(key)}", "  data_type: TYPE_FP32", f"  dims: {dims}"]
        lines += [*([f"  label_filename: {_quoted(labels)}"] if labels else []), "}"]
    lines += [f"instance_group {{ count: 1 kind: {KINDS[device]} }}"]
    lines += [f"dynamic_batching {{ max_queue_delay_microseconds: {LONGEST_WAIT} }}"]
    for key, value in told.items():
        lines += [f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"]
    return "\n".join(lines) + "\n"


def parameters(bundle: ServedBundle) -> dict[str, str]:
    """Return what a client has to know of a network to give it right windows, and to read its answers, by key."""
    image = bundle.metadata["network_data_format"]["inputs"][bundle.key("inputs")]
    steps = {key: steps_of(bundle.parser.get_parsed_content(key)) for key in ("preprocessing", "postprocessing")}
    names = {key: [type(step).__name__ for step in of] for key, of in steps.items()}
    told: dict[str, Any] = {
        **names,
        "intensities": bundle.metadata["image_classes"],
        **{key: image[key] for key in ("axcodes", "spacing") if key in image},
        **_window(bundle.parser.get_parsed_content("inferer")),
        "class_names": bundle.class_names,
        "answer": _answer(bundle),
        "weights_sha256": digest(bundle.weights),
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in told.items()}


def _answer(bundle: ServedBundle) -> str:
    """Return how labels are read off logits."""
    if bundle.regions:
        written = dict(zip(bundle.regions, written_labels(bundle.regions), strict=True))
        steps = ", ".join(f"{label} where '{name}' is above 0" for name, label in written.items())
        return f"Channels are regions that overlap, each with a sigmoid of its own: write, one over the other, {steps}."
    if bundle.channels("outputs") == 1:
        return "Foreground is where the logit is above 0."
    return "The label of a voxel is the channel with the greatest logit, from 0 on."


def _window(inferer: Any) -> dict[str, Any]:
    """Return how an inferer cuts an image, as far as it says so by the names of MONAI's sliding window."""
    inner = getattr(inferer, "inferer", inferer)  # of one that averages several versions of an image
    known = {"window": "roi_size", "overlap": "overlap", "blending": "mode"}
    found = {key: getattr(inner, name) for key, name in known.items() if hasattr(inner, name)}
    return {key: getattr(value, "value", value) for key, value in found.items()}


def _readme(bundle: ServedBundle, name: str, told: Mapping[str, str]) -> str:
    """Return what a client does, step by step: a window that is not prepared is answered too, and wrongly."""
    axes = "X, Y, Z" if bundle.spatial_dims == 3 else "rows, columns"
    inputs, outputs = bundle.key("inputs"), bundle.key("outputs")
    rows = "".join(f"| `{key}` | {value} |\n" for key, value in told.items())
    grid = "\nBring the volume to `axcodes` and `spacing` (mm) first, and its labels back to its own grid at the end.\n"
    return f"""# {name}

{bundle.metadata["description"]}

The server takes **prepared** windows, `{inputs}` of float32 (batch, channels, {axes}), of any size, and answers with
**logits**, `{outputs}` (batch, {" + ".join(bundle.class_names)}, {axes}). It cannot tell a raw image from a prepared
one: who sends raw intensities gets labels that mean nothing.
{grid if "axcodes" in told else ""}
1. Prepare the *whole* image by the steps of `preprocessing`: `intensities` says how. Mean, standard deviation and
   percentiles are those of the whole image, not of a window.
2. Cut it into windows of `window` voxels that overlap by the part `overlap`; average their logits with weights by
   `blending`. Several windows of one size may go in one request, up to {LARGEST_BATCH}.
3. {told["answer"]} Then follow what else `postprocessing` names.

| parameter in `config.pbtxt` | value |
|---|---|
{rows}
The same in code is `configs/inference.json` of the bundle: its `preprocessing`, `inferer` and `postprocessing`, with
this server in the place of the network.
"""


def _quoted(text: str) -> str:
    """Return a text as protobuf's text format has it; JSON's escapes are among its own."""
    return json.dumps(text, ensure_ascii=False)
