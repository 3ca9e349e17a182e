"""What a network predicts in, why, and that it says so."""

import json
import logging
from copy import deepcopy

import numpy as np
import pytest
import tifffile
import torch
from discs import ROOT
from monai.bundle import ConfigParser
from torch import nn

from pipeline import execution
from pipeline.backends import Exported
from pipeline.errors import InputError
from pipeline.execution import prepare
from pipeline.handlers.load_weights import load_weights
from pipeline.inference import predict_with_bundle
from pipeline.networks.precision import InFloat32, fast_layout, for_prediction
from pipeline.networks.unet import UNet
from pipeline.precision_record import why_not_proven
from pipeline.provenance import digest
from pipeline.synthetic.cells import make_cells


@pytest.fixture
def weights(tmp_path):
    """The file of a network's weights, in a bundle's folder."""
    file = tmp_path / "run" / "models" / "model.pt"
    file.parent.mkdir(parents=True)
    torch.save(small().state_dict(), file)
    return file


def small(**options):
    torch.manual_seed(0)
    return UNet(channels=(4, 8), **options).eval()


def has_unit(monkeypatch, answer):
    monkeypatch.setattr(execution, "has_bfloat16", lambda device: answer)


def prove(weights, dice=1.0, **changes):
    scores = {"classes": ["cell"], "dice": {"cell": dice}, "mean": dice, "least": dice}
    record = {"weights": digest(weights), "cases": 3, **scores, **changes}
    weights.with_name("precision.json").write_text(json.dumps(record))


def chosen(weights, caplog, **wishes):
    with caplog.at_level(logging.INFO):
        network = prepare(small(), weights, **wishes)
    return network.precision, network.backend, caplog.records[-1].getMessage()


def test_auto_is_float32_without_a_record_and_says_how_to_make_one(weights, monkeypatch, caplog):
    has_unit(monkeypatch, True)
    precision, backend, told = chosen(weights, caplog)
    assert (precision, backend) == ("float32", "torch")
    assert "no record" in told
    assert f"python -m pipeline precision {weights.parent.parent} IMAGES" in told


def test_auto_is_bfloat16_where_a_record_proves_it_harmless(weights, monkeypatch, caplog):
    has_unit(monkeypatch, True)
    prove(weights, dice=0.999)
    precision, _, told = chosen(weights, caplog)
    assert precision == "bfloat16"
    assert "in bfloat16 with torch" in told


def test_auto_is_float32_on_a_device_without_a_unit(weights, monkeypatch, caplog):
    has_unit(monkeypatch, False)
    monkeypatch.setattr(execution, "is_installed", lambda backend: False)
    prove(weights)
    precision, backend, told = chosen(weights, caplog)
    assert (precision, backend) == ("float32", "torch")
    assert "no bfloat16 unit" in told


def test_auto_is_openvino_only_where_there_is_no_unit_and_it_is_installed(weights, monkeypatch, caplog):
    monkeypatch.setattr(execution, "is_installed", lambda backend: backend == "openvino")
    monkeypatch.setattr(execution, "Exported", lambda network, backend: nn.Identity())
    has_unit(monkeypatch, False)
    assert chosen(weights, caplog)[:2] == ("float32", "openvino")
    assert chosen(weights, caplog, backend="torch")[1] == "torch"
    assert chosen(weights, caplog, precision="bfloat16")[:2] == ("bfloat16", "torch")
    has_unit(monkeypatch, True)
    assert chosen(weights, caplog)[1] == "torch"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_asked_for_is_done(precision, weights, monkeypatch, caplog):
    has_unit(monkeypatch, True)
    prove(weights, dice=0.5)
    assert chosen(weights, caplog, precision=precision)[0] == precision


@pytest.mark.parametrize(
    ("wishes", "reason"),
    [
        ({"precision": "float16"}, "precision is 'float16'"),
        ({"backend": "tensorrt"}, "backend is 'tensorrt'"),
        ({"backend": "onnx", "precision": "bfloat16"}, "computes in float32"),
        ({"backend": "openvino", "device": "cuda"}, "computes on the processor"),
    ],
)
def test_what_cannot_be_is_refused(wishes, reason, weights):
    with pytest.raises(InputError, match=reason) as caught:
        prepare(small(), weights, **wishes)
    assert caught.value.remedy


def test_float32_is_the_network_itself(weights):
    network, image = small(norm="batch"), torch.randn(3, 1, 17, 12)
    with torch.no_grad():
        expected = deepcopy(network)(image)
        prepared = prepare(network, weights, precision="float32")
        torch.testing.assert_close(prepared(image), expected, rtol=1e-4, atol=1e-5)
    assert not prepared.training
    assert prepared.in_channels == network.in_channels


def test_bfloat16_leaves_the_network_as_it_was(weights):
    network, image = small(), torch.randn(2, 1, 16, 16)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        logits = prepare(network, weights, precision="bfloat16")(image)
        again = prepare(network, weights, precision="bfloat16")(image)
        expected = network(image)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert logits.dtype == torch.bfloat16  # an inferer sums them up in float32
    assert torch.equal(logits, again)
    assert not torch.equal(logits.float(), expected)
    torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.05)


def test_only_the_first_convolution_sees_the_image_in_float32():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)).eval()
    prepared = for_prediction(network, torch.bfloat16)
    seen = {}
    for name, part in prepared.named_modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(lambda part, given, made, name=name: seen.update({name: made.dtype}))
    prepared(torch.randn(1, 1, 4, 4))
    assert seen == {"network.0.part": torch.float32, "network.1": torch.bfloat16}
    assert isinstance(prepared.network[0], InFloat32)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (nn.Conv2d(1, 2, 3), torch.channels_last),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4)), torch.channels_last),
        (nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4)), torch.channels_last_3d),
        (nn.Sequential(nn.Conv3d(1, 4, 3), nn.InstanceNorm3d(4)), None),
        (nn.Sequential(nn.Conv3d(1, 4, 3), nn.GroupNorm(2, 4)), None),
        (nn.Linear(3, 3), None),
        (nn.Sequential(nn.Conv3d(1, 4, 3), nn.Conv2d(4, 4, 3)), None),
    ],
)
def test_the_layout_follows_axes_and_norm(network, expected):
    assert fast_layout(network) == expected


def test_the_labels_of_the_shipped_weights_stay_in_bfloat16(weights):
    bundle = ROOT / "bundles" / "unet"
    parser = ConfigParser(ConfigParser.load_config_file(str(bundle / "configs" / "inference.json")))
    file = bundle / "models" / "model.pt"
    network = load_weights(file, parser.get_parsed_content("network_def")).eval()
    image = torch.from_numpy(make_cells(3)[0].astype(np.float32))[None, None]
    image = (image - image.mean()) / image.std()
    with torch.no_grad():
        wide = network(image).argmax(1)
        narrow = for_prediction(network, torch.bfloat16)(image).argmax(1)
    assert 0.2 < (wide > 0).float().mean() < 0.8
    assert (wide == narrow).float().mean() > 0.999


def test_records_of_the_shipped_weights_are_about_them():
    for name in ("unet", "unet3d"):
        assert why_not_proven(ROOT / "bundles" / name / "models" / "model.pt") is None


def test_another_program_is_not_wrapped_in_a_number_format(weights):
    pytest.importorskip("onnxruntime")
    prepared = prepare(small(), weights, backend="onnx")
    assert isinstance(prepared, Exported)
    assert (prepared.precision, prepared.backend) == ("float32", "onnx")


def test_the_summary_tells_it_and_a_change_of_it_is_predicted_anew(tmp_path, caplog):
    tifffile.imwrite(tmp_path / "a.tif", make_cells(3)[0][:64, :64])

    def predict(**wishes):
        out = tmp_path / "out"
        predict_with_bundle(ROOT / "bundles" / "unet", str(tmp_path / "a.tif"), str(out), device="cpu", **wishes)
        (row,) = json.loads((out / "summary.json").read_text())
        return row["precision"], row["backend"]

    with caplog.at_level(logging.INFO):
        assert predict(precision="float32", logging_file=False) == ("float32", "torch")
        assert predict(precision="float32", logging_file=False, resume=True) == ("float32", "torch")
        assert "1 of 1 cases were complete" in caplog.text
        caplog.clear()
        assert predict(precision="bfloat16", logging_file=False, resume=True) == ("bfloat16", "torch")
        assert "0 of 1 cases were complete" in caplog.text
