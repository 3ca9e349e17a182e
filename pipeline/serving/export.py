"""One bundle, one format: `python -m pipeline export`."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import InputError, did_you_mean
from pipeline.handlers.load_weights import to_safetensors
from pipeline.serving.served_bundle import read_bundle

# Where each goes unless one says otherwise, within the bundle: MONAI Deploy looks for the first.
PLACES = {
    "torchscript": "models/model.ts",
    "onnx": "models/model.onnx",
    "openvino": "models/model.xml",
    "triton": "triton",
    "safetensors": "models/model.safetensors",
}


def export(
    bundle: str | Path,
    to: str,
    output: str | Path | None = None,
    name: str | None = None,
    device: str | None = None,
    trust: bool = False,
) -> Path:
    """Write a bundle's trained network for another program, compare it with the network, and return its place.

    Args:
        bundle: a run's folder, another bundle with trained weights, or ``models:/NAME@ALIAS`` of MLflow's registry.
        to: a key of `PLACES`.
        output: the file, or Triton's model repository; in the bundle itself if none is given.
        name: of Triton's model.
        device: where Triton computes: "cpu", "cuda"; None leaves it to the server.
        trust: run whatever the bundle's config says; else only what `pipeline.trust` knows to be harmless.
    """
    if to not in PLACES:
        raise InputError(f"'{to}' is no format of an export", file="to", remedy=did_you_mean(to, list(PLACES)))
    if to != "triton" and (name or device):
        raise InputError("a name and a device belong to --to triton", remedy="leave them out")
    if str(bundle).startswith("models:/"):
        from pipeline.registry import fetch  # MLflow takes seconds to import

        bundle = fetch(str(bundle))
    place = Path(output) if output else Path(bundle) / PLACES[to]
    if to != "triton" and place.suffix != Path(PLACES[to]).suffix:
        raise InputError(f"{to} has another ending", file=place, remedy=f"end it with {Path(PLACES[to]).suffix}")
    if to == "safetensors":
        if output:
            raise InputError("these weights stand beside model.pt", file=place, remedy="leave out --output")
        return to_safetensors(bundle)
    served = read_bundle(bundle, trust)
    if to == "torchscript":
        from pipeline.serving.torchscript import write_torchscript

        return write_torchscript(served, place)
    if to == "openvino":
        from pipeline.serving.openvino_files import write_openvino

        return write_openvino(served.network, place)
    if to == "onnx":
        from pipeline.serving.onnx_file import write_onnx

        return write_onnx(served.network, place, served.key("inputs"), served.key("outputs"))
    from pipeline.serving.triton import write_repository

    return write_repository(served, place, name, device)
