import os
import pickle

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImaged
from PIL import Image

from pipeline.errors import InputError
from pipeline.transforms.load_image import StrictLoadImaged
from pipeline.transforms.save_image import AtomicSaveImaged
from pipeline.volumes.reading import read_volume
from pipeline.volumes.writing import write_volume

PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4)


def picture(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix.startswith(".tif"):
        tifffile.imwrite(file, PIXELS)
    else:
        Image.fromarray(PIXELS).save(file)
    return file


def prediction(file, array, key="pred"):
    """Return what inference leaves: `array` under `key`, which remembers its input file."""
    return {"id": "case_1", key: MetaTensor(torch.as_tensor(array), meta={"filename_or_obj": str(file)})}


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".tif", ".png"])
def test_a_label_map_has_the_format_and_the_place_of_its_input(tmp_path, suffix):
    turned = np.array([[0, 0, 3, 7], [-1.5, 0, 0, 40], [0, 2, 0, -12.5], [0, 0, 0, 1]])  # PSR
    shape = (3, 4) if suffix == ".png" else (3, 4, 5)
    source = tmp_path / "in" / "patient" / f"scan{suffix}"
    write_volume(source, np.zeros((1, *shape), np.uint8), np.eye(4) if suffix in (".png", ".tif") else turned)
    labels = np.arange(np.prod(shape)).reshape(1, *shape)
    data = StrictLoadImaged("image", len(shape))({"id": "c", "image": str(source)})
    data["pred"] = torch.as_tensor(labels)
    save = AtomicSaveImaged("pred", tmp_path / "out", tmp_path / "in")
    saved = save(data)
    written = tmp_path / "out" / "patient" / f"scan{suffix}"
    assert save.output_file(source) == written
    volume = read_volume(written, len(shape), kind="label")
    np.testing.assert_array_equal(volume.array, labels)
    assert volume.array.dtype == np.uint8
    np.testing.assert_array_equal(volume.affine, read_volume(source, len(shape)).affine)
    assert saved["pred"] is data["pred"]


def test_other_programs_see_a_saver(tmp_path):
    save = AtomicSaveImaged("pred", tmp_path / "out", tmp_path, postfix="_seg")
    assert isinstance(save, SaveImaged)
    assert pickle.loads(pickle.dumps(save)).postfix == "_seg"
    with pytest.raises(ValueError, match="kind must be"):
        AtomicSaveImaged("pred", tmp_path, tmp_path, kind="logits")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.bool])
def test_numbers_of_any_type_that_are_whole(tmp_path, dtype):
    file = picture(tmp_path / "in" / "a.png")
    data = prediction(file, torch.eye(3, 4).to(dtype)[None])
    saved = AtomicSaveImaged("pred", tmp_path / "out", tmp_path / "in", postfix="_seg")(data)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "a_seg.png")), np.eye(3, 4))
    assert saved["pred"].meta["saved_to"] == str(tmp_path / "out" / "a_seg.png")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_probabilities(tmp_path, dtype):
    scores = torch.tensor([0.25, 0.75], dtype=dtype)[:, None, None].expand(2, 3, 4)
    save = AtomicSaveImaged("pred", tmp_path / "out", tmp_path / "in", kind="probabilities")
    for name, written in {"a.png": "a.png.tif", "b.tif": "b.tif"}.items():
        save(prediction(picture(tmp_path / "in" / name), scores))
        volume = read_volume(tmp_path / "out" / written, 2)
        assert volume.array.dtype == np.float32
        np.testing.assert_array_equal(volume.array, scores.float())


def test_equal_names_never_share_an_output(tmp_path):
    inputs = ["one/a.png", "two/a.png", "a.png", "a.jpg", "a.JPG", "a.jpeg", "a.bmp", "a.tif", "a.tiff", "a_.png"]
    save = AtomicSaveImaged("pred", tmp_path / "out", tmp_path / "in")
    for number, name in enumerate(inputs):
        save(prediction(picture(tmp_path / "in" / name), np.full((1, 3, 4), number)))
    names = ["a.JPG.png", "a.bmp.png", "a.jpeg.png", "a.jpg.png", "a.png", "a.tif", "a.tiff", "a_.png"]
    assert tree(tmp_path / "out") == [*names, "one/a.png", "two/a.png"]
    for number, name in enumerate(inputs):
        assert read_volume(save.output_file(tmp_path / "in" / name), 2).array.max() == number


def test_an_input_that_is_named_like_a_result(tmp_path):
    save = AtomicSaveImaged("pred", tmp_path / "out", tmp_path / "in")
    for _ in range(2):  # the same case again is no collision
        save(prediction(picture(tmp_path / "in" / "a.jpg"), np.full((1, 3, 4), 1)))
    with pytest.raises(
        InputError, match=r"case 'case_1', file '.*a\.jpg\.png': its result .* is already that of '.*a\.jpg'"
    ):
        save(prediction(picture(tmp_path / "in" / "a.jpg.png"), np.full((1, 3, 4), 2)))
    assert read_volume(tmp_path / "out" / "a.jpg.png", 2).array.max() == 1


def test_the_input_is_never_overwritten(tmp_path):
    file = picture(tmp_path / "a.png")
    for folder in (tmp_path, tmp_path / "link"):
        if not folder.exists():
            os.symlink(tmp_path, folder)
        with pytest.raises(InputError, match="would be overwritten by its own result"):
            AtomicSaveImaged("pred", folder, tmp_path)(prediction(file, np.zeros((1, 3, 4), int)))
    np.testing.assert_array_equal(np.asarray(Image.open(file)), PIXELS)
    AtomicSaveImaged("pred", tmp_path, tmp_path, postfix="_seg")(prediction(file, np.zeros((1, 3, 4), int)))
    assert tree(tmp_path) == ["a.png", "a_seg.png"]


def test_inputs_by_a_link_or_a_relative_name(tmp_path, monkeypatch):
    picture(tmp_path / "store" / "x.png")
    (tmp_path / "in").mkdir()
    os.symlink(tmp_path / "store" / "x.png", tmp_path / "in" / "a.png")
    monkeypatch.chdir(tmp_path)
    AtomicSaveImaged("pred", "out", "in")(prediction("in/a.png", np.zeros((1, 3, 4), int)))
    assert tree(tmp_path / "out") == ["a.png"]


def test_refusals(tmp_path):
    file = picture(tmp_path / "in" / "a.png")
    save = AtomicSaveImaged("pred", tmp_path / "out", tmp_path / "in")
    with pytest.raises(InputError, match=r"case 'case_1', .* a label map needs one channel, got shape \(2, 3, 4\)"):
        save(prediction(file, np.zeros((2, 3, 4), int)))
    for value in (0.5, np.nan):
        with pytest.raises(InputError, match=f"12 label values are not whole numbers, such as {value}"):
            save(prediction(file, np.full((1, 3, 4), value)))
    with pytest.raises(InputError, match="float32 labels from 16777216 on are not exact"):
        save(prediction(file, np.full((1, 3, 4), 2**24, np.float32)))
    with pytest.raises(InputError, match="is empty or has negative numbers"):
        save(prediction(file, np.full((1, 3, 4), -1)))
    with pytest.raises(InputError, match=r"has shape \(3, 5\), but the image .* has \(3, 4\)"):
        save(prediction(file, np.zeros((1, 3, 5), int)))
    save_scores = AtomicSaveImaged("pred", tmp_path / "out", tmp_path / "in", kind="probabilities")
    with pytest.raises(InputError, match="12 of 12 voxels are NaN"):
        save_scores(prediction(file, np.full((1, 3, 4), np.nan)))
    with pytest.raises(InputError, match="does not lie in the root folder"):
        save(prediction(picture(tmp_path / "elsewhere.png"), np.zeros((1, 3, 4), int)))
    with pytest.raises(InputError, match="neither 'pred' nor 'image' carries the name of its input file"):
        save({"pred": torch.zeros(1, 3, 4)})
    with pytest.raises(KeyError, match="pred"):
        save({"image": torch.zeros(1, 3, 4)})
    assert not (tmp_path / "out").exists()


def test_a_key_that_may_be_missing(tmp_path):
    save = AtomicSaveImaged("pred", tmp_path / "out", tmp_path, allow_missing_keys=True)
    assert save({"id": "a"}) == {"id": "a"}


def test_monai_reads_what_was_written(tmp_path):
    affine = np.diag([-1.5, 2, 3, 1])
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), affine), tmp_path / "in" / "a.nii.gz")
    labels = np.arange(60).reshape(1, 3, 4, 5) % 7
    AtomicSaveImaged("pred", tmp_path / "out", tmp_path / "in")(prediction(tmp_path / "in" / "a.nii.gz", labels))
    written = nib.load(tmp_path / "out" / "a.nii.gz")
    np.testing.assert_array_equal(written.affine, affine)
    np.testing.assert_array_equal(written.get_fdata(), labels[0])
