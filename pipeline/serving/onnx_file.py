"""A network as ONNX, for batches and images of any size."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from pipeline.backends import onnx_program, require
from pipeline.errors import InputError
from pipeline.serving.agreement import check_agreement, example
from pipeline.volumes.atomic import atomic_write_bytes


def write_onnx(network: nn.Module, file: Path, inputs: str = "image", outputs: str = "pred") -> Path:
    """Write a network with the names of its input and output, and return the file.

    Args:
        network: trained, on the processor, in evaluation mode.
        file: ends with `.onnx`.
        inputs: name of the images (N, C, *size), float32.
        outputs: name of the logits (N, K, *size), float32.
    """
    require("onnx")
    import onnxruntime

    if any(getattr(network, "margin", ())):
        raise _refusal("onnx can express valid convolutions for images of one size only")
    try:
        program = onnx_program(network, example(network), any_size=True, names=(inputs, outputs))
    except InputError as error:
        raise _refusal(error.reason) from error
    content = program.model_proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is an error of ours
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    check_agreement(network, lambda x: torch.from_numpy(session.run([outputs], {inputs: x.numpy()})[0]), "onnx")
    atomic_write_bytes(file, content)
    return file


def _refusal(reason: str) -> InputError:
    return InputError(reason, file="to", remedy="export to torchscript, or predict with --backend onnx")
