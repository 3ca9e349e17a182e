import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from pipeline.errors import InputError
from pipeline.volumes.reading import read_header, read_volume
from pipeline.volumes.writing import write_label_map, write_volume

# The first image that itk reads loads its modules, which crash the process where their warnings are errors.
pytestmark = pytest.mark.filterwarnings("ignore:builtin type .* has no __module__:DeprecationWarning")

LABELS = np.arange(2 * 3 * 4).reshape(2, 3, 4) % 5
GEOMETRIC = [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd"]


def placed(directions, spacing=(1.5, 2, 3), origin=(-12.5, 40, 7)):
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions) * spacing
    affine[:3, 3] = origin
    return affine


def tilted(degrees):
    a = np.deg2rad(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(2 * a), -np.sin(2 * a), 0], [np.sin(2 * a), np.cos(2 * a), 0], [0, 0, 1]])
    return about_x @ about_z


AFFINES = {
    "RAS": placed(np.eye(3)),
    "LAS": placed(np.diag([-1, 1, 1])),
    "LPI": placed(np.diag([-1, -1, -1])),
    "PSR": placed([[0, 0, 1], [-1, 0, 0], [0, 1, 0]]),
    "oblique": placed(tilted(17), (0.7, 0.8, 2.5)),
    "oblique LPS": placed(tilted(-8) @ np.diag([-1, -1, 1]), (0.7, 0.7, 5)),
}


def nifti(file, affine, forms=("sform", "qform"), units="mm", shape=(2, 3, 4)):
    image = nib.Nifti1Image(np.zeros(shape, np.int16), None)
    image.header.set_sform(affine, 2 if "sform" in forms else 0)
    image.header.set_qform(affine, 1 if "qform" in forms else 0)
    image.header.set_xyzt_units(units, "sec")
    nib.save(image, file)
    return file


def seen_by_sitk(file):
    image = sitk.ReadImage(str(file))
    return np.concatenate([image.GetDirection(), image.GetSpacing(), image.GetOrigin()])


def seen_by_itk(file):
    image = itk.imread(str(file))
    return np.concatenate([itk.array_from_matrix(image.GetDirection()).ravel(), image.GetSpacing(), image.GetOrigin()])


def ras(seen):
    """Turn direction, spacing and origin of ITK into an affine."""
    affine = placed(seen[:9].reshape(3, 3), seen[9:12], seen[12:])
    return np.diag([-1, -1, 1, 1]) @ affine


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# geometry


def test_the_directions_are_what_they_are_called():
    for name in ("RAS", "LAS", "LPI", "PSR"):
        assert "".join(nib.aff2axcodes(AFFINES[name])) == name


@pytest.mark.parametrize("forms", [("sform", "qform"), ("sform",), ("qform",)])
@pytest.mark.parametrize("name", AFFINES)
def test_nifti_keeps_the_geometry_for_nibabel_simpleitk_and_itk(tmp_path, name, forms):
    source = nifti(tmp_path / "image.nii.gz", AFFINES[name], forms)
    write_label_map(tmp_path / "label.nii.gz", LABELS, like=source)
    one, other = nib.load(source), nib.load(tmp_path / "label.nii.gz")
    for field in ("qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units", "quatern_b", "qoffset_x"):
        np.testing.assert_array_equal(other.header[field], one.header[field], err_msg=field)
    np.testing.assert_array_equal(other.affine, one.affine)
    np.testing.assert_array_equal(seen_by_sitk(tmp_path / "label.nii.gz"), seen_by_sitk(source))
    np.testing.assert_array_equal(seen_by_itk(tmp_path / "label.nii.gz"), seen_by_itk(source))
    np.testing.assert_allclose(ras(seen_by_sitk(tmp_path / "label.nii.gz")), AFFINES[name], atol=1e-5)
    np.testing.assert_allclose(ras(seen_by_itk(tmp_path / "label.nii.gz")), AFFINES[name], atol=1e-5)
    assert other.header.get_slope_inter() == (None, None) or other.header.get_slope_inter() == (1, 0)
    np.testing.assert_array_equal(np.asarray(other.dataobj), LABELS)


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd"])
@pytest.mark.parametrize("name", AFFINES)
def test_itk_formats_keep_the_geometry(tmp_path, name, suffix):
    sitk.WriteImage(sitk.ReadImage(str(nifti(tmp_path / "a.nii", AFFINES[name]))), str(tmp_path / f"image{suffix}"))
    write_label_map(tmp_path / f"label{suffix}", LABELS, like=tmp_path / f"image{suffix}")
    source, written = tmp_path / f"image{suffix}", tmp_path / f"label{suffix}"
    np.testing.assert_allclose(seen_by_sitk(written), seen_by_sitk(source), rtol=0, atol=1e-12)
    np.testing.assert_allclose(seen_by_itk(written), seen_by_itk(source), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(written))).T, LABELS)


@pytest.mark.parametrize("suffix", GEOMETRIC)
@pytest.mark.parametrize("name", AFFINES)
def test_a_volume_of_its_own_geometry(tmp_path, name, suffix):
    array = np.random.default_rng(0).normal(size=(2, 2, 3, 4)).astype(np.float32)
    for channels in (1, 2):
        write_volume(tmp_path / f"a{suffix}", array[:channels], AFFINES[name])
        volume = read_volume(tmp_path / f"a{suffix}", 3)
        np.testing.assert_array_equal(volume.array, array[:channels])
        np.testing.assert_allclose(volume.affine, AFFINES[name], atol=1e-5)
    write_volume(tmp_path / f"b{suffix}", array[:1], AFFINES[name])
    np.testing.assert_allclose(ras(seen_by_sitk(tmp_path / f"b{suffix}")), AFFINES[name], atol=1e-5)
    np.testing.assert_allclose(ras(seen_by_itk(tmp_path / f"b{suffix}")), AFFINES[name], atol=1e-5)


def test_units_are_kept_and_not_applied_twice(tmp_path):
    source = nifti(tmp_path / "image.nii", AFFINES["LAS"], units="micron")
    write_label_map(tmp_path / "label.nii", LABELS, like=source)
    write_label_map(tmp_path / "label.mha", LABELS, like=source)
    np.testing.assert_array_equal(nib.load(tmp_path / "label.nii").affine, nib.load(source).affine)
    for name in ("image.nii", "label.nii", "label.mha"):
        assert read_header(tmp_path / name, 3).spacing == pytest.approx((0.0015, 0.002, 0.003))
        assert sitk.ReadImage(str(tmp_path / name)).GetSpacing() == pytest.approx((0.0015, 0.002, 0.003))


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 1)])
@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_2d_images_keep_their_rank_and_place(tmp_path, shape, suffix):
    source = nifti(tmp_path / "a.nii.gz", AFFINES["RAS" if len(shape) == 2 else "oblique"], shape=shape)
    if suffix != ".nii.gz":
        flat = sitk.ReadImage(str(source))
        sitk.WriteImage(flat, str(tmp_path / f"a{suffix}"))
        source = tmp_path / f"a{suffix}"
    write_label_map(tmp_path / f"label{suffix}", np.eye(4, 3, dtype=int), like=source)
    write_volume(tmp_path / f"scores{suffix}", np.ones((2, 4, 3), np.float32), like=source)
    label, scores = read_volume(tmp_path / f"label{suffix}", 2), read_volume(tmp_path / f"scores{suffix}", 2)
    np.testing.assert_array_equal(label.array[0], np.eye(4, 3))
    assert scores.array.shape == (2, 4, 3)
    assert label.stored_dims == len(shape)
    for volume in (label, scores):
        np.testing.assert_allclose(volume.affine, read_header(source, 2).affine, atol=1e-6)
    np.testing.assert_allclose(seen_by_sitk(tmp_path / f"label{suffix}"), seen_by_sitk(source), atol=1e-12)


def test_an_oblique_slice_becomes_a_volume_of_one_slice(tmp_path):
    write_label_map(tmp_path / "a.mha", np.eye(4, 3, dtype=int), AFFINES["oblique"])
    volume = read_volume(tmp_path / "a.mha", 2)
    assert volume.stored_dims == 3
    np.testing.assert_allclose(volume.affine, AFFINES["oblique"], atol=1e-12)


def test_nifti_2_stays_nifti_2_and_long_axes_need_it(tmp_path):
    nib.save(nib.Nifti2Image(np.zeros((2, 3, 4), np.int16), AFFINES["LAS"]), tmp_path / "a.nii")
    write_label_map(tmp_path / "b.nii", LABELS, like=tmp_path / "a.nii")
    assert isinstance(nib.load(tmp_path / "b.nii"), nib.Nifti2Image)
    write_label_map(tmp_path / "long.nii", np.ones((40000, 1, 1), int))
    assert read_volume(tmp_path / "long.nii", 3).shape == (40000, 1, 1)


# values


@pytest.mark.parametrize(
    ("largest", "dtype"), [(0, "u1"), (255, "u1"), (256, "u2"), (65535, "u2"), (65536, "u4"), (2**32, "u8")]
)
@pytest.mark.parametrize("suffix", [*GEOMETRIC, ".tif", ".png"])
def test_labels_take_the_smallest_unsigned_type(tmp_path, suffix, largest, dtype):
    labels = np.zeros((3, 4) if suffix == ".png" else (2, 3, 4), np.int64)
    labels[-1, -2] = largest
    if suffix == ".png" and largest > 65535:
        with pytest.raises(InputError, match=rf"up to {largest}\. Remedy: write \.tif"):
            write_label_map(tmp_path / "a.png", labels)
        assert names(tmp_path) == []
        return
    write_label_map(tmp_path / f"a{suffix}", labels)
    volume = read_volume(tmp_path / f"a{suffix}", labels.ndim, kind="label")
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array[0], labels)


def test_pictures_for_other_programs(tmp_path):
    labels = np.arange(12).reshape(3, 4)
    for name in ("a.png", "a.tif"):
        write_label_map(tmp_path / name, labels)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / name)), labels)
    colours = np.arange(3 * 3 * 4, dtype=np.uint8).reshape(3, 3, 4)
    for name in ("rgb.png", "rgb.tif"):
        write_volume(tmp_path / name, colours)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / name)), np.moveaxis(colours, 0, -1))
        np.testing.assert_array_equal(read_volume(tmp_path / name, 2).array, colours)


@pytest.mark.parametrize("shape", [(1, 3, 4), (2, 3, 4), (3, 3, 4), (4, 3, 4)])
def test_probabilities_in_2d_tiff(tmp_path, shape):
    scores = np.random.default_rng(0).random(shape, np.float32)
    write_volume(tmp_path / "a.tif", scores)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif", 2).array, scores)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), scores[0] if len(scores) == 1 else scores)


def test_3d_tiff(tmp_path):
    write_label_map(tmp_path / "a.tif", LABELS)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), LABELS)
    scores = np.random.default_rng(0).random((3, 2, 3, 4), np.float32)
    write_volume(tmp_path / "b.tif", scores)
    np.testing.assert_array_equal(read_volume(tmp_path / "b.tif", 3).array, scores)


def test_a_stack_of_one_page_stays_a_volume(tmp_path):
    write_volume(tmp_path / "a.tif", np.ones((1, 1, 3, 4), np.uint8))
    assert read_volume(tmp_path / "a.tif", 3).shape == (1, 3, 4)
    assert read_volume(tmp_path / "a.tif", 2).shape == (3, 4)


def test_types_that_formats_lack(tmp_path):
    write_volume(tmp_path / "a.png", np.eye(3, dtype=bool)[None])
    np.testing.assert_array_equal(read_volume(tmp_path / "a.png", 2).array[0], np.eye(3))
    write_volume(tmp_path / "a.nii", np.full((1, 2, 3, 4), 0.5, np.float16))
    assert read_volume(tmp_path / "a.nii", 3).array.dtype == np.float32
    write_volume(tmp_path / "a.nrrd", np.full((1, 2, 3, 4), 0.5, ">f4"))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nrrd", 3).array, np.full((1, 2, 3, 4), 0.5))


@pytest.mark.parametrize("suffix", [*GEOMETRIC, ".tif"])
def test_equal_content_gives_equal_bytes(tmp_path, suffix):
    for folder in ("one", "two"):
        write_label_map(tmp_path / folder / f"a{suffix}", LABELS, AFFINES["oblique"])
    for name in names(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert names(tmp_path / "one") == names(tmp_path / "two")


# refusals


def refused(file, array, text, writer=write_volume, **options):
    before = names(file.parent)
    with pytest.raises(InputError, match=text) as caught:
        writer(file, array, case="c7", **options)
    assert (caught.value.case, caught.value.file) == ("c7", str(file))
    assert caught.value.remedy
    assert names(file.parent) == before


def test_what_cannot_be_written(tmp_path):
    refused(tmp_path / "a.png", np.full((1, 3, 4), 0.5), "PNG holds whole numbers up to 65535, not float64 up to 0.5")
    refused(tmp_path / "a.png", np.zeros((2, 3, 4), np.uint8), "PNG holds no 2 channels")
    refused(tmp_path / "a.png", np.zeros((3, 3, 4), np.uint16), "PNG holds no 3 channels of uint16")
    refused(tmp_path / "a.png", np.zeros((1, 2, 3, 4), np.uint8), "PNG holds one 2D image")
    refused(tmp_path / "a.jpg", np.zeros((1, 3, 4), np.uint8), "JPG files are only read")
    refused(tmp_path / "a.xyz", np.zeros((1, 3, 4), np.uint8), "unknown suffix")
    refused(tmp_path / "a.nii", np.full((1, 2, 3, 4), np.nan), "24 of 24 voxels are NaN")
    sheared = np.eye(4)
    sheared[0, 1] = 0.1
    refused(tmp_path / "a.nii", np.zeros((1, 2, 3, 4)), "sheared", affine=sheared)
    for labels, text in ((LABELS - 1, "negative numbers"), (LABELS[:0], "empty"), (LABELS + 0.5, "not whole numbers")):
        refused(tmp_path / "a.nii", labels, text, writer=write_label_map)
    source = nifti(tmp_path / "image.nii", AFFINES["LAS"])
    refused(
        tmp_path / "a.nii",
        LABELS[:1],
        r"has shape \(1, 3, 4\), but the image .*image.nii",
        write_label_map,
        like=source,
    )
    with pytest.raises(ValueError, match="either affine or like"):
        write_volume(tmp_path / "a.nii", np.zeros((1, 2, 3, 4)), np.eye(4), like=source)


# atomicity


def test_mhd_voxels_are_replaced_with_their_header(tmp_path, monkeypatch):
    write_label_map(tmp_path / "a.mhd", LABELS)
    write_label_map(tmp_path / "ab.mhd", LABELS)
    before = names(tmp_path)
    assert len(before) == 4

    replace = os.replace

    def crash_before_the_header(source, target):
        if Path(target).name == "a.mhd":
            raise RuntimeError("between the two files")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash_before_the_header)
        with pytest.raises(RuntimeError, match="between"):
            write_label_map(tmp_path / "a.mhd", LABELS * 2)
    assert names(tmp_path) == before
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mhd", 3).array[0], LABELS)
    write_label_map(tmp_path / "a.mhd", LABELS * 2)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mhd", 3).array[0], LABELS * 2)
    np.testing.assert_array_equal(read_volume(tmp_path / "ab.mhd", 3).array[0], LABELS)
    assert len(names(tmp_path)) == 4


def test_voxels_without_a_header_do_not_stay(tmp_path, monkeypatch):
    replace = os.replace

    def crash_before_the_header(source, target):
        if Path(target).name == "a.mhd":
            raise OSError("between the two files")
        replace(source, target)

    monkeypatch.setattr(os, "replace", crash_before_the_header)
    with pytest.raises(OSError, match="between"):
        write_label_map(tmp_path / "new" / "a.mhd", LABELS)
    assert names(tmp_path / "new") == []


def test_a_disk_that_itk_fills_is_named(tmp_path, monkeypatch):
    def write_a_part(image, file, **options):
        Path(file).write_bytes(b"part")
        raise RuntimeError("fwrite wrote only 4 1-sized things")

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(9, 9, 0 if any(folder.iterdir()) else 10**9))
    monkeypatch.setattr(sitk, "WriteImage", write_a_part)
    for suffix in (".mha", ".mhd", ".nrrd"):
        refused(tmp_path / f"a{suffix}", LABELS, "disk full", write_label_map)


@pytest.mark.parametrize("stem", ["with space", "Ünïcode", "x" * 240])
@pytest.mark.parametrize("suffix", [*GEOMETRIC, ".tif", ".png", ".MHA", ".NRRD", ".NII.GZ"])
def test_names(tmp_path, stem, suffix):
    array = np.ones((1, 3, 4) if suffix == ".png" else (1, 2, 3, 4), np.uint8)
    write_volume(tmp_path / f"{stem}{suffix}", array)
    np.testing.assert_array_equal(read_volume(tmp_path / f"{stem}{suffix}", array.ndim - 1).array, array)
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def has_grown(folder):
    try:
        return any(path.stat().st_size > 2**16 for path in folder.iterdir())
    except FileNotFoundError:  # renamed in between
        return True


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".tif"])
def test_kill_in_the_middle_of_a_write_leaves_no_partial_file(tmp_path, suffix):
    script = (
        "import sys, threading, numpy as np\n"
        "from pipeline.volumes.writing import write_volume\n"
        "noise = np.random.default_rng(0).integers(0, 99, (1, 256, 256, 256), dtype=np.uint8)\n"
        "print('writing', flush=True)\n"
        "write_volume(sys.argv[1], noise)\n"
        "print('written', flush=True)\n"
        "threading.Event().wait()\n"
    )
    final = tmp_path / f"out{suffix}"
    command = [sys.executable, "-c", script, str(final)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        while not has_grown(tmp_path):
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert not final.exists() or read_volume(final, 3).shape == (256, 256, 256)
    assert all(name.startswith(".tmp-") for name in names(tmp_path) if name != final.name)
