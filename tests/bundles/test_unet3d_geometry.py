"""Whatever a file's grid is, bundles/unet3d answers on it: its network here only asks where the image is above 0."""

import itk
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from kinds import UNET3D_KIND

ISOTROPIC = (1.0, 1.0, 1.0)
THRESHOLD = {
    "network_def": {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 1},
    "class_names": ["background", "above 0"],
    "normalisation": [],
    "crop_size": [32, 32, 32],
    "device": "cpu",
}


@pytest.fixture(scope="module")
def threshold(tmp_path_factory):
    """A bundle root whose weights give the logits (0, x): the class is 1 where the image is above 0."""
    folder = tmp_path_factory.mktemp("threshold")
    (folder / "models").mkdir()
    weight = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1)
    torch.save({"weight": weight, "bias": torch.zeros(2)}, folder / "models" / "model.pt")
    return folder


@pytest.fixture
def predict(threshold, run_bundle, tmp_path):
    """Return `predict(image)`, which gives the label map's file."""

    def call(image, **overrides):
        (tmp_path / "in").mkdir()
        nib.save(image, tmp_path / "in" / "a.nii.gz")
        options = {**THRESHOLD, "bundle_root": str(threshold), "input_dir": str(tmp_path / "in"), **overrides}
        run_bundle("inference", UNET3D_KIND.configs / "inference.json", output_dir=str(tmp_path / "out"), **options)
        return tmp_path / "out" / "a.nii.gz"

    return call


def oriented(axcodes, spacing=ISOTROPIC, angles=(0.0, 0.0, 0.0), origin=(-31.0, 17.5, 203.0)):
    """An affine whose axes point along `axcodes`, turned by angles about the world's axes."""
    axes = np.zeros((3, 3))
    for column, (axis, sign) in enumerate(nib.orientations.axcodes2ornt(tuple(axcodes))):
        axes[int(axis), column] = sign * spacing[column]
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(*angles) @ axes
    affine[:3, 3] = origin
    return affine


def body(affine, shape):
    """How deep each voxel lies inside a lopsided body in the volume's middle, in mm, as float32; outside below 0."""
    radius = 0.3 * np.min(np.linalg.norm(affine[:3, :3], axis=0) * shape)
    places = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T
    offsets = places - affine[:3, :3] @ (np.array(shape) - 1) / 2
    ball = radius - np.linalg.norm(offsets, axis=-1)
    bump = radius / 2 - np.linalg.norm(offsets - [radius * 0.9, radius * 0.5, 0], axis=-1)
    return np.maximum(ball, bump).astype(np.float32)


def scan(affine, shape, sform=1, qform=1, voxels=None):
    """A NIfTI image whose grid stands in the sform, the qform (code 0: it does not), or both."""
    image = nib.Nifti1Image(body(affine, shape) if voxels is None else voxels, None)
    image.header.set_sform(affine if sform else None, sform)
    image.header.set_qform(affine if qform else None, qform)
    image.header.set_xyzt_units("mm")
    return nib.Nifti1Image.from_bytes(image.to_bytes())


def affine_of_itk(image):
    """The voxel-to-RAS matrix of an image of SimpleITK or ITK, which count left and back positive."""
    is_sitk = isinstance(image, sitk.Image)
    direction = np.reshape(image.GetDirection(), (3, 3)) if is_sitk else itk.array_from_matrix(image.GetDirection())
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(direction) * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def check_grid(written, image, affine):
    """Three programs read the label map's grid as the image's."""
    found = nib.load(written)
    assert found.shape == image.shape
    np.testing.assert_array_equal(found.affine, image.affine)
    np.testing.assert_allclose(found.affine, affine, atol=1e-4)
    for code in ("sform_code", "qform_code"):
        assert found.header[code] == image.header[code]
    for read in (sitk.ReadImage, lambda file: itk.imread(file)):
        np.testing.assert_allclose(affine_of_itk(read(str(written))), affine, atol=1e-3)


def overlap(one, other):
    return 2 * np.sum(one & other) / (one.sum() + other.sum())


ORIENTED = {
    "RAS": oriented("RAS"),
    "LAS": oriented("LAS"),
    "LPI": oriented("LPI"),
    "PSR": oriented("PSR"),
    "negative diagonal": np.diag([-1.0, -1.0, -1.0, 1.0]),
    "oblique": oriented("SAL", angles=(0.2, -0.15, 0.3)),
}


@pytest.mark.parametrize("name", ORIENTED)
@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (1, 0), (0, 1)], ids=["both", "sform only", "qform only"])
def test_where_axes_are_only_turned_every_voxel_keeps_its_value(name, sform, qform, predict):
    """Noise without any smoothness: a single voxel out of place would be seen."""
    shape = (21, 26, 17)
    noise = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    image = scan(ORIENTED[name], shape, sform, qform, noise)
    written = predict(image, spacing=[None, None, None])
    np.testing.assert_array_equal(np.asarray(nib.load(written).dataobj), noise > 0)
    check_grid(written, image, ORIENTED[name])


@pytest.mark.parametrize("name", ORIENTED)
def test_the_networks_own_spacing_changes_nothing_either(name, predict):
    image = scan(ORIENTED[name], (24, 25, 26))
    written = predict(image, spacing=[1.0, 1.0, 1.0])
    np.testing.assert_array_equal(np.asarray(nib.load(written).dataobj), np.asarray(image.dataobj) > 0)


RESAMPLED = {
    "sub-millimetre": (oriented("LPS", (0.4, 0.4, 0.6)), (140, 140, 100)),
    "7.5 mm slices": (oriented("RAS", (0.9, 0.9, 7.5)), (100, 100, 14)),
    "7.5 mm slices, oblique": (oriented("PSR", (0.9, 7.5, 0.9), (0.25, 0.1, -0.2)), (100, 14, 100)),
    "negative diagonal": (np.diag([-1.3, -1.3, -2.2, 1.0]), (44, 44, 28)),
    "LAS": (oriented("LAS", (1.1, 1.1, 2.5)), (52, 52, 26)),
}


@pytest.mark.parametrize("name", RESAMPLED)
@pytest.mark.parametrize("spacing", [[1.0, 1.0, 1.0], None], ids=["1 mm", "as the bundle says"])
def test_where_voxels_are_resampled_the_mask_is_the_same_but_for_its_rim(name, spacing, predict):
    affine, shape = RESAMPLED[name]
    image = scan(affine, shape)
    written = predict(image, **({} if spacing is None else {"spacing": spacing}))
    found, truth = np.asarray(nib.load(written).dataobj) > 0, np.asarray(image.dataobj) > 0
    assert 0.01 < truth.mean() < 0.5
    assert overlap(truth, found) >= 0.99
    check_grid(written, image, affine)
