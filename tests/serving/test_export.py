"""Each format by the function behind the verb, from the folder that a training left."""

import shutil

import pytest
import safetensors.torch
import torch

from pipeline.errors import InputError
from pipeline.serving import onnx_file, openvino_files, triton
from pipeline.serving.export import PLACES, export


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_run_gets_the_model_that_monai_deploy_looks_for(run):
    assert export(run, "torchscript") == run / "models" / "model.ts"
    weights = torch.load(run / "models" / "model.pt", weights_only=True)
    state = torch.jit.load(run / "models" / "model.ts").state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())


def test_weights_alone(run):
    file = export(run, "safetensors")
    assert file == run / "models" / "model.safetensors"
    assert safetensors.torch.load_file(file).keys() == torch.load(run / "models" / "model.pt").keys()


def test_each_format_has_its_writer_and_its_place(run, tmp_path, monkeypatch):
    seen = []
    for module, name in (
        (onnx_file, "write_onnx"),
        (openvino_files, "write_openvino"),
        (triton, "write_repository"),
    ):
        monkeypatch.setattr(module, name, lambda what, place, *more: seen.append((place, *more)) or place)
    assert export(run, "onnx") == run / "models" / "model.onnx"
    assert export(run, "onnx", tmp_path / "a.onnx") == tmp_path / "a.onnx"
    assert export(run, "openvino") == run / "models" / "model.xml"
    assert export(run, "triton", tmp_path / "repository", "cells", "cuda") == tmp_path / "repository"
    assert [more for _, *more in seen] == [["image", "pred"], ["image", "pred"], [], ["cells", "cuda"]]
    assert sorted(PLACES) == ["onnx", "openvino", "safetensors", "torchscript", "triton"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("onyx",), "no format of an export"),
        (("onnx", "model.ts"), "another ending"),
        (("torchscript", "model.pt"), "another ending"),
        (("onnx", None, "name"), "belong to --to triton"),
        (("openvino", None, None, "cpu"), "belong to --to triton"),
        (("safetensors", "x.safetensors"), "beside model.pt"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(arguments, words, trained):
    with pytest.raises(InputError, match=words):
        export(trained, *arguments)
    assert not (trained / "models" / "model.onnx").exists()
