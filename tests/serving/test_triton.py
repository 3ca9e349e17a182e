"""A generated repository is one that Triton can read, and its model computes what the bundle's network does."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from triton_config import KINDS, parse

from pipeline.errors import InputError
from pipeline.provenance import digest
from pipeline.serving import triton
from pipeline.serving.triton import config_text, write_repository


@pytest.fixture(scope="module")
def folder(bundle, tmp_path_factory):
    """The model's folder in a repository that also holds another."""
    repository = tmp_path_factory.mktemp("repository")
    (repository / "other").mkdir()
    return write_repository(bundle, repository)


def test_the_folders_are_those_that_triton_looks_for(bundle, folder):
    assert folder.name == bundle.folder.name
    found = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    assert found == ["1/model.onnx", "README.md", "config.pbtxt", "labels.txt"]
    assert (folder / "labels.txt").read_text().splitlines() == bundle.class_names
    assert (folder.parent / "other").is_dir()


def test_the_config_is_a_message_of_triton(bundle, folder):
    config = parse((folder / "config.pbtxt").read_text())
    assert (config.name, config.backend, config.max_batch_size) == (folder.name, "onnxruntime", 8)
    (images,), (logits,) = config.input, config.output
    any_size = [-1] * bundle.spatial_dims
    assert (images.name, images.data_type, list(images.dims)) == ("image", 11, [1, *any_size])  # 11: float32
    assert (logits.name, logits.data_type, list(logits.dims)) == ("pred", 11, [len(bundle.class_names), *any_size])
    assert (folder / logits.label_filename).is_file()
    assert [(group.kind, group.count) for group in config.instance_group] == [(KINDS["KIND_AUTO"], 1)]
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000


def test_a_client_is_told_what_the_network_expects(bundle, folder):
    told = {pair.key: pair.value.string_value for pair in parse((folder / "config.pbtxt").read_text()).parameters}
    assert json.loads(told["class_names"]) == bundle.class_names
    assert told["weights_sha256"] == digest(bundle.folder / "models" / "model.pt")
    assert "mean 0 and standard deviation 1" in told["intensities"]
    steps = {2: ["StrictLoadImaged"], 3: ["StrictLoadImaged", "ToGridd", "ClipIntensityPercentilesd"]}
    assert json.loads(told["preprocessing"]) == [*steps[bundle.spatial_dims], "Standardised"]
    assert json.loads(told["window"]) == {2: [256, 256], 3: [48, 48, 24]}[bundle.spatial_dims]
    assert told["blending"] == "gaussian"
    assert (told.get("axcodes"), told.get("spacing")) == ((None, None), ("RAS", "[1.0, 1.0, 3.0]"))[
        bundle.spatial_dims == 3
    ]
    text = (folder / "README.md").read_text()
    assert all(f"`{key}` | {value} |" in text for key, value in told.items())


@torch.no_grad()
def test_the_model_gives_the_logits_of_the_network(bundle, folder):
    config = parse((folder / "config.pbtxt").read_text())
    model = onnxruntime.InferenceSession(folder / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    assert [part.name for part in model.get_inputs()] == [part.name for part in config.input]
    for shape in [(1, 1, 32, 48, 16), (config.max_batch_size, 1, 32, 16, 8), (3, 1, 33, 47, 13)]:
        images = torch.randn(shape[: 2 + bundle.spatial_dims])
        (found,) = model.run([config.output[0].name], {config.input[0].name: images.numpy()})
        np.testing.assert_allclose(found, bundle.network(images).numpy(), rtol=1e-3, atol=1e-3)


def test_a_model_that_is_there_is_not_replaced(bundle, folder):
    before = digest(folder / "1" / "model.onnx")
    with pytest.raises(InputError, match="a model of this name") as caught:
        write_repository(bundle, folder.parent)
    assert "--name" in caught.value.remedy
    assert digest(folder / "1" / "model.onnx") == before


@pytest.mark.parametrize(("device", "kind"), [(None, "KIND_AUTO"), ("cpu", "KIND_CPU"), ("cuda", "KIND_GPU")])
def test_the_device_decides_on_the_instances(bundle, device, kind):
    assert parse(config_text(bundle, "m", device, {})).instance_group[0].kind == KINDS[kind]


def test_any_text_passes_the_text_format(bundle):
    told = {"odd": 'a "quoted" \\ path\n\twith µm, 染色 and { braces }'}
    (pair,) = parse(config_text(bundle, "m", None, told)).parameters
    assert (pair.key, pair.value.string_value) == ("odd", told["odd"])


def test_the_reader_of_these_tests_is_strict(bundle):
    text = config_text(bundle, "m", None, {})
    for wrong in (text + "no_such_field: 1\n", text.replace("TYPE_FP32", "TYPE_FLOAT"), text.replace("8", '"8"')):
        with pytest.raises(text_format.ParseError):
            parse(wrong)


def test_mistakes_leave_nothing(bundle, tmp_path, monkeypatch):
    for options, words in (
        ({"name": "../up"}, "no name of a model"),
        ({"name": ".."}, "no name of a model"),
        ({"device": "tpu"}, "not on 'tpu'"),
    ):
        with pytest.raises(InputError, match=words):
            write_repository(bundle, tmp_path, **options)

    def fails(*_):
        raise InputError("onnx cannot")

    monkeypatch.setattr(triton, "write_onnx", fails)
    with pytest.raises(InputError, match="onnx cannot"):
        write_repository(bundle, tmp_path)
    assert not list(tmp_path.iterdir())


def test_regions_are_told_as_what_they_are(tmp_path):
    """Channels of a network of regions are no classes, of which the greatest wins."""
    import shutil

    from discs import ROOT
    from monai.bundle import ConfigParser

    from pipeline.bundle import inference_config
    from pipeline.serving.served_bundle import read_bundle

    folder = shutil.copytree(ROOT / "bundles" / "unet3d", tmp_path / "unet3d")
    parser = ConfigParser()
    parser.read_config([str(folder / "configs" / name) for name in ("train.json", "regions.yaml")])
    config = inference_config(parser.get(), folder / "configs" / "inference.json")
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    network = ConfigParser(config).get_parsed_content("network_def")
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    bundle = read_bundle(folder)
    model = write_repository(bundle, tmp_path / "repository")
    assert (model / "labels.txt").read_text().splitlines() == ["organs", "enhanced", "vessel"]
    told = {pair.key: pair.value.string_value for pair in parse((model / "config.pbtxt").read_text()).parameters}
    assert json.loads(told["class_names"]) == ["organs", "enhanced", "vessel"]
    assert "1 where 'organs' is above 0, 2 where 'enhanced' is above 0, 3 where 'vessel' is above 0" in told["answer"]
    assert "LabelsFromRegionsd" in told["postprocessing"]
    assert "greatest logit" not in (model / "README.md").read_text()
