"""`model.ts`: the network for programs that have torch and nothing else, with the configs that MONAI Deploy reads."""

from __future__ import annotations

import json
import tempfile
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import InputError
from pipeline.serving.agreement import check_agreement
from pipeline.serving.served_bundle import ServedBundle
from pipeline.volumes.atomic import atomic_write_bytes

LOADER = "pipeline.transforms.load_image.StrictLoadImaged"


def write_torchscript(bundle: ServedBundle, file: Path) -> Path:
    """Write a network as `monai.bundle ckpt_export` does, for images of any size, and return the file.

    Beside the network it holds `metadata.json` and `inference.json`, so that MONAI Deploy needs no other file.

    Args:
        bundle: the trained network and its configs.
        file: ends with `.ts`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as a whole, which Deploy still asks for
        try:
            scripted = torch.jit.script(bundle.network)
        except Exception as error:  # whatever a compiler makes of a layer that it does not know
            why = next(iter(str(error).strip().splitlines()), type(error).__name__)
            remedy = "export to ONNX, or serve the bundle itself"
            raise InputError(f"torchscript cannot compute this network: {why}", file="to", remedy=remedy) from error
        check_agreement(bundle.network, scripted, "torchscript")
        extra = {
            "metadata.json": json.dumps(bundle.metadata),
            "inference.json": json.dumps(config_for_images(bundle.config)),
        }
        # The folder within the archive has the file's name, by which Deploy looks for the configs.
        with tempfile.TemporaryDirectory() as folder:
            torch.jit.save(scripted, str(Path(folder) / file.name), extra)
            atomic_write_bytes(file, (Path(folder) / file.name).read_bytes())
    return file


def config_for_images(config: dict[str, Any]) -> dict[str, Any]:
    """Return an inference config whose preprocessing also takes images that another program has loaded.

    MONAI Deploy leaves out what loads files, and gives arrays without an axis of channels: that axis is added behind
    the loader. Where the loader has run, it is there already.
    """
    changed = deepcopy(config)
    if LOADER not in json.dumps(config):
        return changed
    changed["preprocessing_of_files"] = changed["preprocessing"]
    changed["channel_first"] = {"_target_": "EnsureChannelFirstd", "keys": "image"}
    steps = "@preprocessing_of_files.transforms"
    changed["preprocessing"] = {
        "_target_": "Compose",
        "transforms": f"$[*{steps}[:1], @channel_first, *{steps}[1:]]",
    }
    return changed
