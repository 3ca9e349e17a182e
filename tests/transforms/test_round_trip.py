"""From a file through the network's grid and back into a file: three programs find every label where its voxel was."""

import itk
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import SHAPE, VOXELS, dicom_series, turned
from monai.transforms import Compose, Lambdad

from pipeline.transforms.load_image import StrictLoadImaged
from pipeline.transforms.save_image import AtomicSaveImaged
from pipeline.transforms.to_grid import FromGridd, ToGridd

# The first image that itk reads loads its modules, which crash the process where their warnings are errors.
pytestmark = pytest.mark.filterwarnings("ignore:builtin type .* has no __module__:DeprecationWarning")

LABELS = (VOXELS.astype(int) % 5).astype(np.uint8)  # no two planes alike, so that a flip is seen
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
CODES = ("sform_code", "qform_code", "xyzt_units", "dim_info")


def placed(axcodes, angles=(0.0, 0.0, 0.0)):
    """An affine with edges of 0.7, 0.8 and 2.5 mm whose axes point along `axcodes`, turned about the world's axes."""
    axes = np.zeros((3, 3))
    for column, (axis, sign) in enumerate(nib.orientations.axcodes2ornt(tuple(axcodes))):
        axes[int(axis), column] = sign * (0.7, 0.8, 2.5)[column]
    affine = np.eye(4)
    affine[:3, :3] = nib.eulerangles.euler2mat(*angles) @ axes
    affine[:3, 3] = -31.25, 17.5, 203
    return affine


GRIDS = {"LAS": placed("LAS"), "PSR": placed("PSR"), "oblique": placed("LPI", (0.2, -0.15, 0.3))}


def nifti(file, affine, sform=1, qform=1, units=2):
    kind = nib.Nifti2Image if file.name.startswith("2") else nib.Nifti1Image
    image = kind(LABELS.astype(np.int16), None)
    millimetres = {0: 1, 1: 1000, 2: 1, 3: 0.001}[units]
    stored = np.vstack([affine[:3] / millimetres, affine[3:]])
    image.header.set_sform(stored, sform)
    image.header.set_qform(stored, qform)
    image.header["xyzt_units"] = units + 8  # seconds
    nib.save(image, file)
    return file


def itk_file(file, affine):
    image = sitk.GetImageFromArray(LABELS.astype(np.int16).T)
    lps = TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(file))
    return file


def there_and_back(source, folder):
    """Return the file of the labels that a network sees in the image's own values, whatever its grid is."""
    steps = [
        StrictLoadImaged("image", 3),
        ToGridd("image", "RAS"),
        lambda data: {**data, "pred": data["image"].as_tensor()},
        FromGridd("pred", mode="nearest"),
        Lambdad("pred", lambda values: values.round().int()),
        AtomicSaveImaged("pred", folder),
    ]
    (output,) = Compose(steps)({"id": "a", "image": str(source)})["outputs"][:1]
    return output


def seen_by_nibabel(file):
    image = nib.load(file)
    units = {1: 1000, 3: 0.001}.get(int(image.header["xyzt_units"]) & 7, 1)
    return np.asarray(image.dataobj), np.vstack([image.affine[:3] * units, image.affine[3:]])


def seen_by_sitk(file):
    image = sitk.ReadImage(str(file))
    return grid_of(image, np.reshape(image.GetDirection(), (3, 3)), sitk.GetArrayFromImage(image).T)


def seen_by_itk(file):
    image = itk.imread(str(file))
    return grid_of(image, itk.array_from_matrix(image.GetDirection()), itk.array_from_image(image).T)


def grid_of(image, direction, voxels):
    affine = np.eye(4)
    affine[:3, :3] = direction * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return voxels, TO_RAS @ affine


def check(file, labels, affine):
    nifti_2 = file.suffix == ".nii" and isinstance(nib.load(file), nib.Nifti2Image)  # which ITK does not know
    programs = [] if nifti_2 else [seen_by_sitk, seen_by_itk]
    for program in programs + ([seen_by_nibabel] if ".nii" in file.name else []):
        voxels, found = program(file)
        np.testing.assert_array_equal(voxels, labels, err_msg=program.__name__)
        np.testing.assert_allclose(found, affine, atol=1e-3, err_msg=program.__name__)


@pytest.mark.parametrize(("sform", "qform"), [(2, 1), (4, 0), (0, 1)], ids=["both", "sform only", "qform only"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", ["1.nii", "1.nii.gz", "2.nii"])
def test_nifti(tmp_path, name, grid, sform, qform):
    source = nifti(tmp_path / name, GRIDS[grid], sform, qform)
    written = there_and_back(source, tmp_path / "out")
    assert written.name == "a" + name[1:]
    check(written, LABELS, GRIDS[grid])
    one, other = nib.load(source).header, nib.load(written).header
    assert type(other) is type(one)
    for code in CODES:
        assert other[code] == one[code], code
    assert other["sform_code"] == sform
    assert other["qform_code"] == qform


@pytest.mark.parametrize("units", [0, 1, 2, 3], ids=["unknown", "metre", "mm", "micron"])
def test_nifti_of_other_units(tmp_path, units):
    source = nifti(tmp_path / "1.nii.gz", GRIDS["oblique"], units=units)
    written = there_and_back(source, tmp_path / "out")
    check(written, LABELS, GRIDS["oblique"])
    assert nib.load(written).header["xyzt_units"] == units + 8


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd"])
@pytest.mark.parametrize("grid", GRIDS)
def test_metaimage_and_nrrd(tmp_path, suffix, grid):
    source = itk_file(tmp_path / f"x{suffix}", GRIDS[grid])
    written = there_and_back(source, tmp_path / "out")
    assert written.name == f"a{suffix}"
    check(written, LABELS, GRIDS[grid])


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_dicom_series_becomes_nifti(tmp_path, mirrored):
    series = dicom_series(tmp_path / "scan", LABELS.astype(np.int16), turned(25, mirrored), names=["d", "b", "c", "a"])
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(series / name) for name in ("d", "b", "c", "a")])
    image = reader.Execute()
    _, affine = grid_of(image, np.reshape(image.GetDirection(), (3, 3)), None)
    written = there_and_back(series, tmp_path / "out")
    assert written.name == "a.nii.gz"
    check(written, LABELS, affine)
    header = nib.load(written).header
    assert (header["sform_code"], header["qform_code"], int(header["xyzt_units"]) & 7) == (1, 1, 2)
    assert nib.load(written).shape == SHAPE
