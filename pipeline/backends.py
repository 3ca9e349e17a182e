"""Other programs than PyTorch that compute a trained network on the processor."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib.util import find_spec

import numpy as np
import torch
from torch import nn

from pipeline.errors import InputError
from pipeline.networks.precision import Around

Window = Callable[[np.ndarray], np.ndarray]  # (1, C, *size) -> (1, K, *size)

BACKENDS = ("auto", "torch", "onnx", "openvino")
INSTALL = {"onnx": "pip install unet-pipeline[export]", "openvino": "pip install unet-pipeline[openvino]"}
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}
SHAPES = 8  # of windows, for which the compiled network is kept


class Exported(Around):
    """Run a network by ONNX Runtime or OpenVINO, in float32 on the processor; compiled once for each window's shape.

    (N, C, *size) -> float32 logits (N, K, *size), window by window: a last batch may be smaller than the others, and
    these programs take no longer for windows one at a time.

    Args:
        network: with its weights, on the processor, in evaluation mode.
        backend: "onnx" or "openvino".
    """

    def __init__(self, network: nn.Module, backend: str) -> None:
        super().__init__()
        require(backend)
        self.network = network
        self._compiled = lru_cache(SHAPES)(partial(_compiled, network, backend))

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the windows `x`."""
        windows = torch.as_tensor(x).float().contiguous().numpy()
        run = self._compiled(windows.shape[1:])
        return torch.cat([torch.from_numpy(run(window[None])) for window in windows])


def is_installed(backend: str) -> bool:
    """Whether all packages are there that a backend needs."""
    return all(find_spec(package) is not None for package in PACKAGES[backend])


def require(backend: str) -> None:
    """Refuse a backend of which a package is not installed, and say how to install it."""
    missing = ", ".join(package for package in PACKAGES[backend] if find_spec(package) is None)
    if missing:
        raise InputError(f"backend '{backend}' needs {missing}", remedy=INSTALL[backend])


def onnx_program(
    network: nn.Module, images: torch.Tensor, any_size: bool = False, names: tuple[str, str] = ("image", "pred")
) -> torch.onnx.ONNXProgram:
    """Return a network as ONNX; a layer that ONNX cannot express is an `InputError`.

    Args:
        network: on the processor, in evaluation mode.
        images: an example (N, C, *size), whose numbers say nothing; N and sizes above 1 if `any_size`.
        any_size: leave the number of images and their sizes open; else both are those of the example.
        names: of the input and the output.
    """
    for chatty in ("torch.onnx", "onnx_ir", "onnxscript"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    open_axes = {axis: torch.export.Dim.AUTO for axis in range(images.dim()) if axis != 1}
    with _reported("onnx"):
        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            verbose=False,
            input_names=names[:1],
            output_names=names[1:],
            dynamic_shapes=(open_axes,) if any_size else None,
        )
    assert program is not None
    return program


@contextmanager
def _reported(backend: str) -> Iterator[None]:
    """Turn whatever an exporter makes of a layer that it does not know into an `InputError`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters among themselves
        try:
            yield
        except Exception as error:
            words = str(error).split("\x1b")[0]  # up to what colours a terminal
            why = next(iter(words.splitlines()), type(error).__name__)
            reason = f"{backend} cannot compute this network: {why}"
            raise InputError(reason, file="backend", remedy="use --backend torch") from error


def _compiled(network: nn.Module, backend: str, shape: tuple[int, ...]) -> Window:
    make = {"onnx": _by_onnx, "openvino": _by_openvino}[backend]
    return make(network, torch.zeros(1, *shape))


def _by_onnx(network: nn.Module, example: torch.Tensor) -> Window:
    import onnxruntime

    model = onnx_program(network, example).model_proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    with _reported("onnx"):
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda window: session.run(None, {name: window})[0]


def _by_openvino(network: nn.Module, example: torch.Tensor) -> Window:
    import openvino

    with _reported("openvino"):
        model = openvino.convert_model(network, example_input=example, input=[tuple(example.shape)])
    options = {
        "INFERENCE_PRECISION_HINT": "f32",  # else it takes bfloat16 where there is a unit
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    with _reported("openvino"):
        request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
    return lambda window: request.infer([window])[0].copy()  # its memory is used again for the next window
