import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from dicom_files import dicom_slice
from monai.data import MetaTensor
from PIL import Image

from pipeline.errors import InputError
from pipeline.synthetic.organs import make_organs
from pipeline.transforms.save_picture import SavePictured, amounts, planes_of
from pipeline.volumes.reading import read_volume

NAMES = ["background", "liver", "kidney", "vessel"]


def prediction(file, labels, case="patient/1.2.scan"):
    labels = torch.as_tensor(np.asarray(labels, np.int64))[None]
    return {"id": case, "pred": MetaTensor(labels), "image": image_of(file)}


def image_of(file):
    """What remains of the image after preprocessing: its file's name."""
    return MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": str(file)})


@pytest.fixture
def scan(tmp_path):
    """A file of made-up organs, and the labels that belong to it."""
    made = make_organs(0, (32, 32, 20), "PSR")
    nib.save(nib.Nifti1Image(made.volume, made.affine), tmp_path / "a.nii.gz")
    return tmp_path / "a.nii.gz", made.labels


def test_a_volume_becomes_one_picture(tmp_path, scan):
    file, labels = scan
    save = SavePictured("pred", tmp_path / "out", NAMES)
    saved = save(prediction(file, labels) | {"outputs": [tmp_path / "x"]})
    written = tmp_path / "out" / "patient" / "1.2.scan_picture.png"
    assert saved["outputs"] == [tmp_path / "x", written]
    with Image.open(written) as picture:
        assert picture.format == "PNG"
        assert picture.size[0] > picture.size[1] > 300
    first = written.read_bytes()
    save(prediction(file, labels))
    assert written.read_bytes() == first
    save(prediction(file, labels * 0))
    assert written.read_bytes() != first
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_the_legend_says_how_much_there_is(scan):
    file, labels = scan
    volume = read_volume(file, 3)
    voxel = abs(np.linalg.det(volume.affine[:3, :3])) / 1000
    legend = amounts(volume, labels, NAMES)
    assert legend == {n: f"{NAMES[n]}  {(labels == n).sum() * voxel:.3g} ml" for n in (1, 2, 3)}
    assert amounts(volume, labels * 0, NAMES) == {}
    assert list(amounts(volume, (labels == 1) * 2, NAMES)) == [2]
    assert amounts(volume, (labels == 1) * 5, NAMES)[5].startswith("label 5  ")


def test_millilitres_in_three_digits(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((10, 10, 10), np.int16), np.diag([10, 10, 12.34, 1])), tmp_path / "a.nii")
    volume, labels = read_volume(tmp_path / "a.nii", 3), np.zeros((10, 10, 10), int)
    for count, text in ((1, "1.23"), (10, "12.3"), (100, "123"), (1000, "1,234")):  # 1.234 ml each
        labels.reshape(-1)[:count] = 1
        assert amounts(volume, labels, NAMES) == {1: f"liver  {text} ml"}


def test_pictures_are_counted_in_pixels_and_stacks_in_voxels(tmp_path):
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 40, 50), np.uint8), photometric="minisblack")
    for name, shape, amount in (("a.png", (40, 50), "2,000 pixels"), ("a.tif", (3, 40, 50), "6,000 voxels")):
        volume = read_volume(tmp_path / name, len(shape))
        assert amounts(volume, np.ones(shape, int), ["background", "cell"]) == {1: f"cell  {amount}"}
        assert all(plane.letters == "" for plane in planes_of(volume, np.ones(shape, int)))


def test_images_are_drawn_as_they_are_looked_at(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    colours = np.stack([pixels, pixels + 3, pixels + 6], axis=-1)
    Image.fromarray(colours).save(tmp_path / "rgb.png")
    nib.save(nib.Nifti1Image(pixels.T, np.diag([0.5, 2, 1, 1])), tmp_path / "a.nii")  # (x, y)
    dicom_slice(tmp_path / "a.dcm", pixels)
    spacings = {"a.png": (1, 1), "rgb.png": (1, 1), "a.nii": (2, 0.5), "a.dcm": (0.8, 0.7)}
    for name, spacing in spacings.items():
        volume = read_volume(tmp_path / name, 2)
        labels = (volume.array[0] == 11).astype(int)
        (plane,) = planes_of(volume, labels)
        np.testing.assert_array_equal(plane.image, pixels + 3 if name == "rgb.png" else pixels)
        np.testing.assert_array_equal(plane.labels, pixels == 11)
        assert plane.spacing == pytest.approx(spacing)
        assert plane.letters == ""
    # One slice of a volume knows where it lies: here x grows to the left and y to the front.
    nib.save(nib.Nifti1Image(pixels.T[..., None], np.diag([-0.5, 2, 1, 1])), tmp_path / "slice.nii")
    volume = read_volume(tmp_path / "slice.nii", 2)
    (plane,) = planes_of(volume, np.zeros(volume.shape, int))
    np.testing.assert_array_equal(plane.image, pixels[::-1])
    assert (plane.title, plane.letters, plane.spacing) == ("axial, k = 0", "RLAP", (2, 0.5))


def test_problems_name_the_case(tmp_path, scan):
    file, labels = scan
    save = SavePictured("pred", tmp_path / "out", NAMES)
    with pytest.raises(ValueError, match="do not lie on the grid"):
        save(prediction(file, labels[1:]))
    file.unlink()
    with pytest.raises(InputError, match=r"case 'patient/1\.2\.scan', file '.*a\.nii\.gz': does not exist"):
        save(prediction(file, labels))
    assert not (tmp_path / "out").exists()
