"""A network as OpenVINO's pair of files, for batches and images of any size."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

from pipeline.backends import require
from pipeline.errors import InputError
from pipeline.serving.agreement import check_agreement, example
from pipeline.volumes.atomic import atomic_write_bytes


def write_openvino(network: nn.Module, file: Path) -> Path:
    """Write a network in float32 as `file`, which ends with `.xml`, and `.bin` beside it; return the first.

    Args:
        network: trained, on the processor, in evaluation mode.
        file: the graph; the weights stand beside it.
    """
    require("openvino")
    import openvino

    images = example(network)
    any_size = [-1, images.shape[1], *[-1] * (images.dim() - 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the converter and TorchScript among themselves
        try:
            model = openvino.convert_model(network, example_input=images, input=[any_size])
        except Exception as error:  # whatever a converter makes of a layer that it does not know
            why = next(iter(str(error).strip().splitlines()), type(error).__name__)
            reason = f"openvino cannot compute this network: {why}"
            raise InputError(reason, file="to", remedy="export to torchscript or onnx") from error
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    check_agreement(network, lambda x: torch.from_numpy(compiled(x.numpy())[0]), "openvino")
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(model, Path(folder) / file.name, compress_to_fp16=False)
        for suffix in (".bin", ".xml"):  # the graph last: who finds it finds its weights
            atomic_write_bytes(file.with_suffix(suffix), (Path(folder) / file.name).with_suffix(suffix).read_bytes())
    return file
