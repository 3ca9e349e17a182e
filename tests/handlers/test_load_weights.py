"""Weights that fit are loaded; all else is an error that says why, and runs nothing."""

import os
import pickle
from contextlib import suppress

import pytest
import torch
from engines import scripted_evaluator

from pipeline.errors import InputError
from pipeline.handlers.load_weights import LoadWeights, load_weights, to_safetensors, weights_file


@pytest.fixture
def file(tmp_path):
    """The weights of a Linear(3, 2), all ones."""
    torch.save({"weight": torch.ones(2, 3), "bias": torch.ones(2)}, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def refusal(file, network=None):
    network = network or torch.nn.Linear(3, 2)
    with pytest.raises(InputError) as caught:
        load_weights(file, network)
    assert caught.value.file == str(file)
    assert caught.value.remedy
    return caught.value.reason


def test_weights_that_fit_are_loaded(file):
    network = torch.nn.Linear(3, 2)
    assert load_weights(str(file), network) is network
    assert torch.equal(network.weight, torch.ones(2, 3))
    assert torch.equal(network.bias, torch.ones(2))


def test_they_are_loaded_when_an_engine_starts(file):
    network = torch.nn.Linear(3, 2)
    evaluator = scripted_evaluator([0.5])
    LoadWeights(str(file), network).attach(evaluator)
    assert not torch.equal(network.weight, torch.ones(2, 3)), "not before"
    evaluator.run()
    assert torch.equal(network.weight, torch.ones(2, 3))


def test_no_file(tmp_path):
    assert refusal(tmp_path / "model.pt") == "there are no trained weights"
    assert refusal(tmp_path) == "there are no trained weights"  # a folder


@pytest.mark.parametrize("size", [0, 1, 10, 500, -1, -100])
def test_a_truncated_file(file, size):
    content = file.read_bytes()
    file.write_bytes(content[:size])
    assert 0 <= len(file.read_bytes()) < len(content)
    assert "cannot be read as weights: it is damaged" in refusal(file)


@pytest.mark.parametrize("content", [b"<html>404 Not Found</html>", b"version https://git-lfs.github.com/spec/v1\n"])
def test_another_kind_of_file(file, content):
    file.write_bytes(content)
    assert "cannot be read as weights" in refusal(file)


def test_another_shape_is_named(file):
    reason = refusal(file, torch.nn.Linear(3, 4))
    for word in ("do not fit the network", "size mismatch for weight", "[2, 3]", "[4, 3]"):
        assert word in reason


def test_another_network_is_named(file):
    reason = refusal(file, torch.nn.Sequential(torch.nn.Linear(3, 2)))
    assert "Missing key(s)" in reason
    assert "0.weight" in reason


def test_tensors_without_names(file):
    torch.save([torch.ones(2, 3)], file)
    assert "do not fit the network" in refusal(file)


@pytest.fixture
def bundle(tmp_path):
    """A bundle whose weights are those of a convolution, in channels last, and of a layer that has them too."""
    network = torch.nn.Conv2d(3, 2, 2).to(memory_format=torch.channels_last)
    (tmp_path / "models").mkdir()
    weights = {"a.weight": network.weight.data, "a.bias": network.bias.data, "b.weight": network.weight.data}
    torch.save(weights, tmp_path / "models" / "model.pt")
    return tmp_path


def test_safetensors_hold_what_the_pickle_holds(bundle):
    made = to_safetensors(bundle)
    assert made == bundle / "models" / "model.safetensors"
    network = torch.nn.ModuleDict({"a": torch.nn.Conv2d(3, 2, 2), "b": torch.nn.Conv2d(3, 2, 2, bias=False)})
    load_weights(made, network)
    expected = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
    assert made.read_bytes() == to_safetensors(bundle).read_bytes()


def test_safetensors_take_the_place_of_a_pickle_that_is_not_there(bundle):
    file = bundle / "models" / "model.pt"
    assert weights_file(file) == file
    made = to_safetensors(bundle)
    assert weights_file(file) == file
    file.unlink()
    assert weights_file(str(file)) == weights_file(made) == made
    network = torch.nn.ModuleDict({"a": torch.nn.Conv2d(3, 2, 2), "b": torch.nn.Conv2d(3, 2, 2, bias=False)})
    assert load_weights(file, network) is network
    made.unlink()
    assert weights_file(file) == file
    with pytest.raises(InputError, match="no trained weights"):
        to_safetensors(bundle)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff" * 64, pickle.dumps([1])], ids=["empty", "short", "lie", "pickle"]
)
def test_damaged_safetensors(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert "cannot be read as weights" in refusal(tmp_path / "model.safetensors")


class RunsCode:
    """What a pickle may hold: a call, made when it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    "save",
    [
        lambda content, file: torch.save({"weight": content}, file),
        lambda content, file: torch.save(content, file, _use_new_zipfile_serialization=False),
        lambda content, file: file.write_bytes(pickle.dumps(content)),
    ],
    ids=["zip", "old torch", "pickle"],
)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_that_would_run_code_is_refused_and_the_code_is_not_run(tmp_path, save):
    file, mark = tmp_path / "model.pt", tmp_path / "the code ran"
    save(RunsCode(mark), file)
    reason = refusal(file)
    assert "more than tensors" in reason
    assert "weights_only" not in reason, "no advice to run it"
    assert not mark.exists()
    with suppress(Exception):
        torch.load(file, weights_only=False)
    assert mark.exists(), "or the test shows nothing"
