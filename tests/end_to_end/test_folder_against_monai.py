"""The fast path from file to file gives the labels of MONAI's own transforms and inferer, with the shipped weights."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from discs import ROOT
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import ClipIntensityPercentiles, NormalizeIntensity, SpatialResample
from monai.utils import MetaKeys

from pipeline.inference import predict_with_bundle
from pipeline.synthetic.organs import make_organs
from pipeline.transforms.to_grid import ToGridd

BUNDLE = ROOT / "bundles" / "unet3d"
SHAPES = {"LPS": (61, 50, 23), "PSR": (57, 64, 30)}  # tilted by up to 15 degrees


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for number, (orientation, shape) in enumerate(SHAPES.items()):
        scan = make_organs([7, number], shape, orientation)
        image = nib.Nifti1Image(scan.volume, scan.affine)
        image.set_qform(scan.affine, 1)
        image.set_sform(scan.affine, 1)
        image.header.set_xyzt_units("mm")
        nib.save(image, folder / f"{orientation}.nii.gz")
    return folder


@torch.no_grad()
def labels_of_monai(file, config):
    """The bundle's steps by MONAI alone, through sampling grids of float64."""
    image = read(file)
    grid = ToGridd("image", config["axcodes"], config["spacing"])({"image": image})["image"]
    sample = SpatialResample(mode="bilinear", padding_mode="border", align_corners=False, dtype=torch.float64)
    turned = sample(image, dst_affine=grid.affine, spatial_size=grid.shape[1:])
    clip = ClipIntensityPercentiles(lower=0.5, upper=99.5, channel_wise=True)
    ready = NormalizeIntensity(channel_wise=True)(clip(turned))
    parser = ConfigParser(config)
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(BUNDLE / "models" / "model.pt", weights_only=True))
    inferer = SlidingWindowInferer(config["crop_size"], sw_batch_size=1, overlap=0.5, mode="gaussian")
    logits = MetaTensor(inferer(ready.as_tensor()[None], network)[0], affine=grid.affine)
    return sample(logits, dst_affine=image.affine, spatial_size=image.shape[1:]).argmax(0).numpy()


def read(file):
    """By nibabel alone; what ToGridd needs to know of the file is its grid."""
    scan = nib.load(file)
    voxels, affine = scan.get_fdata(dtype=np.float32)[None], torch.from_numpy(scan.affine)
    meta = {MetaKeys.ORIGINAL_AFFINE: affine, MetaKeys.SPATIAL_SHAPE: np.array(scan.shape)}
    return MetaTensor(torch.from_numpy(voxels), affine=affine, meta=meta)


def test_the_labels_are_those_of_monai(scans, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = json.loads((BUNDLE / "configs" / "inference.json").read_text())
    predict_with_bundle(BUNDLE, str(scans), str(tmp_path / "out"), precision="float32", backend="torch", device="cpu")
    for orientation in SHAPES:
        found = nib.load(tmp_path / "out" / f"{orientation}.nii.gz")
        expected = labels_of_monai(scans / f"{orientation}.nii.gz", config)
        labels = np.asarray(found.dataobj)
        assert labels.dtype == np.uint8
        assert np.allclose(found.affine, nib.load(scans / f"{orientation}.nii.gz").affine)
        assert len(np.unique(expected)) == 4, "the network finds all classes"
        assert (labels == expected).mean() >= 0.999
