"""`model.ts` needs torch alone, and MONAI Deploy finds the labels of `python -m pipeline predict` with it."""

import json
import subprocess
import sys
import zipfile

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import MapTransform

from pipeline.errors import InputError
from pipeline.inference import predict_with_bundle
from pipeline.networks.unet import UNet
from pipeline.serving.torchscript import write_torchscript
from pipeline.synthetic.organs import make_organs

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")

ALONE = """
import sys
sys.modules["pipeline"] = sys.modules["monai"] = None  # who imports them, fails
import tifffile
import torch
network = torch.jit.load(sys.argv[1], map_location="cpu")
cases = torch.load(sys.argv[2], weights_only=True)
torch.save([network(images) for images in cases], sys.argv[3])
"""


@pytest.fixture(scope="module")
def model(bundle, tmp_path_factory):
    return write_torchscript(bundle, tmp_path_factory.mktemp("exported") / "model.ts")


def variants():
    """One of each kind of network, by name."""
    options = {"channels": (4, 8, 16), "norm": "batch"}
    return {
        "context": UNet(2, 3, 2, **options, context=True),
        "global": UNet(2, 1, 3, **options, attention="global"),
        "separate": UNet(3, 1, 2, **options, attention="separate", attention_levels=(1, 2)),
        "supervised": UNet(2, 1, 2, **options, deep_supervision=True),
        "linear": UNet(3, 2, 1, (4, 8), norm="instance", upsample="linear"),
        "valid": UNet(2, 1, 2, (4, 8), padding="valid"),
    }


@torch.no_grad()
def test_a_program_that_has_torch_alone_gets_equal_logits(bundle, model, tmp_path):
    step = bundle.network.divisor
    sizes = [[2 * n for n in step], [3 * n for n in step[:-1]] + [4 * step[-1]], [3 * n + 1 for n in step]]
    cases = [torch.randn(batch, 1, *size) for batch, size in enumerate(sizes, 1)]
    files = [str(tmp_path / name) for name in ("cases.pt", "logits.pt")]
    torch.save(cases, files[0])
    command = [sys.executable, "-I", "-W", "ignore", "-c", ALONE, str(model), *files]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=120)
    for images, logits in zip(cases, torch.load(files[1], weights_only=True), strict=True):
        torch.testing.assert_close(logits, bundle.network(images), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bundle", ["unet"], indirect=True)
@pytest.mark.parametrize("name", variants())
@torch.no_grad()
def test_every_kind_of_network_is_exported_for_any_size(name, bundle, tmp_path):
    network = variants()[name].eval()
    file = write_torchscript(bundle._replace(network=network), tmp_path / "model.ts")
    loaded = torch.jit.load(file)
    for size in ([24] * network.spatial_dims, [30, 26, 28][: network.spatial_dims]):
        images = torch.randn(1, network.in_channels, *size)
        torch.testing.assert_close(loaded(images), network(images), rtol=1e-5, atol=1e-5)


class Unscriptable(torch.nn.Module):
    def forward(self, x):
        return eval("x")


def test_a_network_that_cannot_be_scripted_is_refused(bundle, tmp_path):
    with pytest.raises(InputError, match="torchscript cannot compute this network"):
        write_torchscript(bundle._replace(network=Unscriptable()), tmp_path / "model.ts")
    assert not (tmp_path / "model.ts").exists()


# --- MONAI Deploy's inference operator --------------------------------------------------------------------------------


def deployed(file, folder):
    """A parser of what a model's archive holds, under the names that the operator looks for."""
    inside = {}
    with zipfile.ZipFile(file) as archive:
        for name in ("metadata", "inference"):
            inside[name] = json.loads(archive.read(f"{file.stem}/extra/{name}.json"))
    (folder / "inference.json").write_text(json.dumps(inside["inference"]))
    parser = ConfigParser()
    parser.read_meta(inside["metadata"])
    parser.read_config(str(folder / "inference.json"))
    parser.parse()
    return parser


def steps(parser, name):
    """The transforms of a Compose without those that load and save files, which the operator tells by their names."""
    transforms = parser.get_parsed_content(name).transforms
    assert isinstance(transforms[0], MapTransform)
    return [step for step in transforms if not any(word in type(step).__name__ for word in ("LoadImage", "SaveImage"))]


def operator(parser, network, voxels, affine):
    """Labels of a volume (X, Y, Z) that another operator has made of a DICOM series: no file, no axis of channels."""
    meta = {"affine": affine.copy(), "original_affine": affine, "spatial_shape": np.asarray(voxels.shape)}
    meta["original_channel_dim"] = "no_channel"
    assert str(parser.get_parsed_content("device"))
    (inputs,), (outputs,) = (parser["_meta_"]["network_data_format"][part] for part in ("inputs", "outputs"))
    item = {inputs: MetaTensor.ensure_torch_and_prune_meta(voxels, meta)}
    for step in steps(parser, "preprocessing"):
        item = step(item)
    with torch.no_grad():
        inferer = parser.get_parsed_content("inferer")
        item[outputs] = inferer(inputs=item[inputs][None], network=network)[0]
    for step in steps(parser, "postprocessing"):
        item = step(item)
    return np.squeeze(item[outputs].cpu().numpy(), 0).astype(np.uint8)


@pytest.mark.parametrize("bundle", ["unet3d"], indirect=True)
def test_monai_deploy_finds_the_labels_of_predict(bundle, model, tmp_path):
    scan = make_organs(7)
    voxels = np.round(scan.volume).astype(np.int16)[:, 8:48, 8:48]  # as DICOM has them
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(voxels, scan.affine), tmp_path / "in" / "scan.nii.gz")
    options = {"device": "cpu", "precision": "float32", "logging_file": False}
    predict_with_bundle(bundle.folder, str(tmp_path / "in"), str(tmp_path / "out"), **options)
    expected = np.asarray(nib.load(tmp_path / "out" / "scan.nii.gz").dataobj)
    found = operator(deployed(model, tmp_path), torch.jit.load(model), voxels, scan.affine)
    assert len(np.unique(expected)) > 2
    assert (found == expected).mean() >= 0.999


def test_images_that_are_files_pass_the_exported_preprocessing_unchanged(bundle, model, tmp_path):
    suffix = {2: "image.tif", 3: "image.nii.gz"}[bundle.spatial_dims]
    voxels = np.random.default_rng(0).normal(100, 20, (24, 20, 16)[: bundle.spatial_dims]).astype(np.float32)
    if bundle.spatial_dims == 2:
        tifffile.imwrite(tmp_path / suffix, voxels)
    else:
        nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1, 3, 1])), tmp_path / suffix)
    record = {"image": str(tmp_path / suffix)}
    expected = bundle.parser.get_parsed_content("preprocessing")(record)["image"]
    found = deployed(model, tmp_path).get_parsed_content("preprocessing")(record)["image"]
    torch.testing.assert_close(found.as_tensor(), expected.as_tensor(), rtol=0, atol=0)
