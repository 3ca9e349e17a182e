"""How a trained network predicts: in which number format, memory layout and program."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.backends import BACKENDS, Exported, is_installed
from pipeline.errors import InputError, did_you_mean
from pipeline.networks.precision import PRECISIONS, for_prediction, has_bfloat16
from pipeline.precision_record import why_not_proven

logger = logging.getLogger(__name__)


def prepare(
    network: nn.Module,
    weights: str | Path,
    device: torch.device | str = "cpu",
    precision: str = "auto",
    backend: str = "auto",
    settings: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Return a module that predicts with a trained network: windows (N, C, *size) -> logits, in float32 or `precision`.

    What it decided on is said in the log, and is in its attributes `precision` and `backend`.

    Args:
        network: with its weights, on `device`, in evaluation mode; its memory layout may change.
        weights: the file that these are from; a record beside it tells whether bfloat16 keeps their labels.
        device: where the network is.
        precision: "float32", "bfloat16", or "auto": bfloat16 where the device computes in it and such a record proves
            that it changes no label worth mentioning.
        backend: "torch", "onnx", "openvino", or "auto": OpenVINO where it is installed and a processor has no bfloat16
            unit, else torch. The other programs compute in float32 on the processor.
        settings: the config that predicts; a record counts only if it was made with an equal one.
    """
    for argument, value, choices in (("precision", precision, PRECISIONS), ("backend", backend, BACKENDS)):
        if value not in choices:
            raise InputError(f"{argument} is {value!r}", remedy=did_you_mean(str(value), choices))
    chosen = _backend(torch.device(device), precision, backend)
    if chosen != "torch":
        format_, why = "float32", "what this program computes in"
        executed: nn.Module = Exported(network, chosen)
    else:
        format_, why = _precision(weights, device, precision, settings)
        executed = for_prediction(network, getattr(torch, format_))
    executed.precision, executed.backend = format_, chosen  # type: ignore[assignment]
    logger.info("predicting in %s with %s: %s", format_, chosen, why)
    return executed.eval()


def _backend(device: torch.device, precision: str, backend: str) -> str:
    if backend == "auto":
        suits = device.type == "cpu" and not has_bfloat16(device) and precision != "bfloat16"
        return "openvino" if suits and is_installed("openvino") else "torch"
    if backend != "torch" and device.type != "cpu":
        reason = f"backend '{backend}' computes on the processor, not on '{device}'"
        raise InputError(reason, remedy="use --device cpu, or --backend torch")
    if backend != "torch" and precision == "bfloat16":
        raise InputError(f"backend '{backend}' computes in float32", remedy="use --backend torch for bfloat16")
    return backend


def _precision(
    weights: str | Path, device: torch.device | str, precision: str, settings: Mapping[str, Any] | None
) -> tuple[str, str]:
    """Return the number format, and why it is that one."""
    if precision == "float32":
        return precision, "as asked for"
    if not has_bfloat16(device):
        return precision.replace("auto", "float32"), f"'{device}' has no bfloat16 unit"
    if precision == "bfloat16":
        return precision, "as asked for"
    problem = why_not_proven(weights, settings)
    if problem is None:
        return "bfloat16", "proven to keep the labels of these weights"
    root = Path(weights).parent.parent
    return "float32", f"{problem}; a record is made by: python -m pipeline precision {root} IMAGES"
