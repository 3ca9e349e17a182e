"""ONNX Runtime and OpenVINO give the labels of PyTorch, for batches and windows of any size."""

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from discs import ROOT
from monai.bundle import ConfigParser
from torch import nn

from pipeline import backends
from pipeline.backends import PACKAGES, Exported
from pipeline.errors import InputError
from pipeline.handlers.load_weights import load_weights
from pipeline.inference import predict_with_bundle
from pipeline.inferers.sliding_window import SlidingWindow
from pipeline.networks.unet import UNet
from pipeline.synthetic.cells import make_cells
from pipeline.synthetic.organs import make_organs


@pytest.fixture(params=["onnx", "openvino"])
def backend(request):
    for package in PACKAGES[request.param]:
        pytest.importorskip(package)
    return request.param


def shipped(name):
    bundle = ROOT / "bundles" / name
    parser = ConfigParser(ConfigParser.load_config_file(str(bundle / "configs" / "inference.json")))
    return load_weights(bundle / "models" / "model.pt", parser.get_parsed_content("network_def")).eval()


def standardised(image):
    image = torch.from_numpy(image).float()[None, None]
    return (image - image.mean()) / image.std()


DRAWN = {
    "unet": (lambda: make_cells(3)[0], (128, 96)),  # windows that do not fill the image: the last batch is smaller
    "unet3d": (lambda: make_organs(3).volume, (48, 32, 24)),
}


@pytest.mark.parametrize("name", DRAWN)
@torch.no_grad()
def test_labels_of_the_shipped_weights_are_those_of_torch(name, backend):
    network, (draw, window) = shipped(name), DRAWN[name]
    image, inferer = standardised(draw()), SlidingWindow(window, sw_batch_size=4, overlap=0.25)
    expected = inferer(image, network).argmax(1)
    found = inferer(image, Exported(network, backend)).argmax(1)
    assert 0.01 < (expected > 0).float().mean() < 0.99
    assert (found == expected).float().mean() >= 0.999


@torch.no_grad()
def test_each_shape_is_compiled_once(backend, monkeypatch):
    compiled = []
    original = backends._compiled
    monkeypatch.setattr(
        backends, "_compiled", lambda network, name, shape: compiled.append(shape) or original(network, name, shape)
    )
    network = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()).eval()
    exported = Exported(network, backend)
    for shape in [(4, 2, 8, 6), (1, 2, 8, 6), (3, 2, 5, 7), (2, 2, 8, 6)]:
        image = torch.randn(shape)
        torch.testing.assert_close(exported(image), network(image), rtol=1e-4, atol=1e-5)
    assert compiled == [(2, 8, 6), (2, 5, 7)]


@torch.no_grad()
def test_a_result_is_not_overwritten_by_the_next(backend):
    exported = Exported(nn.Conv2d(1, 1, 1).eval(), backend)
    first = exported(torch.zeros(1, 1, 4, 4))
    kept = first.clone()
    exported(torch.ones(1, 1, 4, 4))
    assert torch.equal(first, kept)


def test_what_the_module_does_not_have_is_the_networks(backend):
    network = shipped("unet")
    exported = Exported(network, backend)
    assert exported.in_channels == 1
    assert exported.margin == network.margin
    with pytest.raises(AttributeError):
        _ = exported.no_such_thing


class _TwoOutputs(nn.Module):
    def forward(self, x):
        return x.sum().item() + x if x.sum().item() > 1e9 else torch.linalg.lstsq(x[0, 0], x[0, 0]).solution


def test_a_network_that_cannot_be_compiled_is_reported(backend):
    with pytest.raises(InputError, match="cannot compute this network") as caught:
        Exported(_TwoOutputs().eval(), backend)(torch.rand(1, 1, 4, 4))
    assert "--backend torch" in caught.value.remedy


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_is_named_with_the_command_that_installs_it(name, monkeypatch):
    monkeypatch.setattr(backends, "find_spec", lambda package: None)
    with pytest.raises(InputError, match=f"needs {PACKAGES[name][0]}") as caught:
        Exported(nn.Conv2d(1, 1, 1), name)
    assert caught.value.remedy.startswith("pip install")


@torch.no_grad()
def test_colours_and_attention_on_sizes_that_are_no_multiples(backend):
    network = UNet(2, 3, 2, (4, 8), norm="batch", attention="global").eval()
    image = torch.randn(2, 3, 13, 17)
    torch.testing.assert_close(Exported(network, backend)(image), network(image), rtol=1e-3, atol=1e-4)


def drawn_pictures(folder):
    for number, size in enumerate([(187, 201), (90, 131)]):
        tifffile.imwrite(folder / f"{number}.tif", make_cells(number)[0][: size[0], : size[1]])
    return tifffile.imread


def drawn_volume(folder):
    scan = make_organs(5)
    image = nib.Nifti1Image(scan.volume, scan.affine).slicer[1:, 3:, :51]  # no multiple of anything
    nib.save(image, folder / "0.nii.gz")
    return lambda file: np.asarray(nib.load(file).dataobj)


@pytest.mark.parametrize(("name", "draw"), [("unet", drawn_pictures), ("unet3d", drawn_volume)])
def test_files_predicted_by_another_program_have_the_labels_of_torch(name, draw, backend, tmp_path, caplog):
    (tmp_path / "in").mkdir()
    read = draw(tmp_path / "in")
    found = {}
    for chosen in ("torch", backend):
        out = tmp_path / chosen
        options = {"backend": chosen, "precision": "float32", "device": "cpu", "logging_file": False}
        with caplog.at_level("INFO", "pipeline.execution"):
            predict_with_bundle(ROOT / "bundles" / name, str(tmp_path / "in"), str(out), **options)
        assert f"predicting in float32 with {chosen}" in caplog.text
        found[chosen] = [read(file) for file in sorted(out.glob("?.*"))]
    assert len(found["torch"]) == len(list((tmp_path / "in").iterdir()))
    for expected, labels in zip(found["torch"], found[backend], strict=True):
        assert 0.01 < (expected > 0).mean() < 0.99
        assert (labels == expected).mean() >= 0.999
