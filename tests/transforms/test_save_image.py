import os
import pickle

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from dicom_files import SHAPE, dicom_series, dicom_slice
from monai.data import MetaTensor
from monai.transforms import SaveImaged
from PIL import Image

from pipeline.errors import InputError
from pipeline.transforms.load_image import StrictLoadImaged
from pipeline.transforms.save_image import AtomicSaveImaged
from pipeline.volumes.reading import files_of, read_volume
from pipeline.volumes.writing import write_volume

PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4)


def picture(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix.startswith(".tif"):
        tifffile.imwrite(file, PIXELS)
    else:
        Image.fromarray(PIXELS).save(file)
    return file


def prediction(file, array, case="case_1"):
    """Return what inference leaves: `array`, which remembers its input file."""
    return {"id": case, "pred": MetaTensor(torch.as_tensor(array), meta={"filename_or_obj": str(file)})}


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".tif", ".TIFF", ".png", ".NII.GZ"])
def test_a_label_map_has_the_format_of_its_input_and_the_name_of_its_case(tmp_path, suffix):
    turned = np.array([[0, 0, 3, 7], [-1.5, 0, 0, 40], [0, 2, 0, -12.5], [0, 0, 0, 1]])  # PSR
    shape = (3, 4) if suffix == ".png" else (3, 4, 5)
    source = tmp_path / "in" / f"scan{suffix}"
    write_volume(source, np.zeros((1, *shape), np.uint8), np.eye(4) if suffix in (".png", ".tif", ".TIFF") else turned)
    labels = np.arange(np.prod(shape)).reshape(1, *shape)
    data = StrictLoadImaged("image", len(shape))({"id": "patient/1.2.scan", "image": str(source)})
    data["pred"] = torch.as_tensor(labels)
    saved = AtomicSaveImaged("pred", tmp_path / "out", "_seg")(data)
    written = tmp_path / "out" / "patient" / f"1.2.scan_seg{suffix.lower()}"
    assert saved["outputs"] == list(files_of(written, len(shape)))
    assert tree(tmp_path / "out") == sorted(str(file.relative_to(tmp_path / "out")) for file in saved["outputs"])
    volume = read_volume(written, len(shape), kind="label")
    np.testing.assert_array_equal(volume.array, labels)
    assert volume.array.dtype == np.uint8
    np.testing.assert_array_equal(volume.affine, read_volume(source, len(shape)).affine)
    assert saved["pred"] is data["pred"]
    assert "outputs" not in data


def test_a_metaimage_names_the_file_of_its_voxels_too(tmp_path):
    write_volume(tmp_path / "a.mhd", np.zeros((1, 3, 4, 5), np.uint8))
    saved = AtomicSaveImaged("pred", tmp_path / "out")(prediction(tmp_path / "a.mhd", np.ones((1, 3, 4, 5))))
    assert [file.suffix for file in saved["outputs"]] == [".mhd", ".zraw"]


def test_dicom_becomes_nifti_in_3d_and_2d(tmp_path):
    series = dicom_series(tmp_path / "scan", names=["a", "b", "c", "d"])
    labels = np.arange(np.prod(SHAPE)).reshape(1, *SHAPE) % 3
    save = AtomicSaveImaged("pred", tmp_path / "out")
    for number, source in enumerate((series, series / "b")):
        save(prediction(source, labels, f"case {number}"))
        written = read_volume(tmp_path / "out" / f"case {number}.nii.gz", 3, kind="label")
        np.testing.assert_array_equal(written.array, labels)
        np.testing.assert_allclose(written.affine, read_volume(series, 3).affine, atol=1e-5)
    image = dicom_slice(tmp_path / "xray.dcm", PIXELS)
    save(prediction(image, PIXELS[None] % 3, "xray"))
    AtomicSaveImaged("pred", tmp_path / "out", "_prob", "probabilities")(prediction(image, PIXELS[None] / 12.0, "xray"))
    for name in ("xray", "xray_prob"):
        written = read_volume(tmp_path / "out" / f"{name}.nii.gz", 2)
        np.testing.assert_allclose(written.affine, read_volume(image, 2).affine, atol=1e-5)
        np.testing.assert_allclose(written.array[0], PIXELS % 3 if name == "xray" else PIXELS / 12.0, atol=1e-6)


def test_other_programs_see_a_saver(tmp_path):
    save = AtomicSaveImaged("pred", tmp_path / "out", postfix="_seg")
    assert isinstance(save, SaveImaged)
    assert pickle.loads(pickle.dumps(save)).postfix == "_seg"
    with pytest.raises(ValueError, match="kind must be"):
        AtomicSaveImaged("pred", tmp_path, kind="logits")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.bool])
def test_numbers_of_any_type_that_are_whole(tmp_path, dtype):
    file = picture(tmp_path / "in" / "a.png")
    data = prediction(file, torch.eye(3, 4).to(dtype)[None], "a")
    saved = AtomicSaveImaged("pred", tmp_path / "out", postfix="_seg")(data)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "a_seg.png")), np.eye(3, 4))
    assert saved["pred"].meta["saved_to"] == str(tmp_path / "out" / "a_seg.png")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_probabilities(tmp_path, dtype):
    scores = torch.tensor([0.25, 0.75], dtype=dtype)[:, None, None].expand(2, 3, 4)
    save = AtomicSaveImaged("pred", tmp_path / "out", kind="probabilities")
    for name in ("a.png", "b.tif", "c.jpg"):
        saved = save(prediction(picture(tmp_path / "in" / name), scores, name))
        assert saved["outputs"] == [tmp_path / "out" / f"{name}.tif"]
        volume = read_volume(saved["outputs"][0], 2)
        assert volume.array.dtype == np.float32
        np.testing.assert_array_equal(volume.array, scores.float())


def test_several_writers_name_all_their_files(tmp_path):
    file, out = picture(tmp_path / "in" / "a.png"), tmp_path / "out"
    data = prediction(file, torch.eye(3, 4)[None], "a") | {"outputs": [out / "other"]}
    for postfix, kind in (("", "labels"), ("_prob", "probabilities")):
        data = AtomicSaveImaged("pred", out, postfix, kind)(data)
    assert data["outputs"] == [out / "other", out / "a.png", out / "a_prob.tif"]


def test_ids_with_dots_keep_apart(tmp_path):
    file = picture(tmp_path / "in" / "a.jpg")
    save = AtomicSaveImaged("pred", tmp_path / "out")
    ids = ["a", "a.jpg", "a.1", "a.2", "a.", ".a", "one.x/a", "two.x/a"]
    for number, case in enumerate(ids):
        save(prediction(file, np.full((1, 3, 4), number), case))
    assert tree(tmp_path / "out") == sorted(f"{case}.png" for case in ids)
    for number, case in enumerate(ids):
        assert read_volume(tmp_path / "out" / f"{case}.png", 2).array.max() == number


@pytest.mark.parametrize("case", ["../a", "x/../../a", "/tmp/a", "..", "."])
def test_ids_that_lead_out_of_the_folder(tmp_path, case):
    file = picture(tmp_path / "in" / "a.png")
    with pytest.raises(InputError, match="its id leads out of the output folder") as caught:
        AtomicSaveImaged("pred", tmp_path / "out")(prediction(file, np.zeros((1, 3, 4), int), case))
    assert caught.value.case == case
    assert tree(tmp_path) == ["in/a.png"]


@pytest.mark.parametrize("case", [None, ""])
def test_a_record_without_an_id(tmp_path, case):
    file = picture(tmp_path / "in" / "a.png")
    with pytest.raises(InputError, match="has no 'id' to name its outputs by"):
        AtomicSaveImaged("pred", tmp_path / "out")(prediction(file, np.zeros((1, 3, 4), int), case))


def test_the_input_is_never_overwritten(tmp_path):
    file = picture(tmp_path / "a.png")
    for folder in (tmp_path, tmp_path / "link"):
        if not folder.exists():
            os.symlink(tmp_path, folder)
        with pytest.raises(InputError, match=r"case 'a', .* would be overwritten by its own result"):
            AtomicSaveImaged("pred", folder)(prediction(file, np.zeros((1, 3, 4), int), "a"))
    np.testing.assert_array_equal(np.asarray(Image.open(file)), PIXELS)
    AtomicSaveImaged("pred", tmp_path, postfix="_seg")(prediction(file, np.zeros((1, 3, 4), int), "a"))
    assert tree(tmp_path) == ["a.png", "a_seg.png"]


def test_inputs_by_a_link_or_a_relative_name(tmp_path, monkeypatch):
    picture(tmp_path / "store" / "x.png")
    (tmp_path / "in").mkdir()
    os.symlink(tmp_path / "store" / "x.png", tmp_path / "in" / "a.png")
    monkeypatch.chdir(tmp_path)
    AtomicSaveImaged("pred", "out")(prediction("in/a.png", np.zeros((1, 3, 4), int), "a"))
    assert tree(tmp_path / "out") == ["a.png"]


def test_more_instances_than_a_png_can_number(tmp_path):
    file = picture(tmp_path / "a.png")
    for largest, text in ((65535, None), (65536, r"up to 65535, not uint32 up to 65536.*convert the input to \.tif")):
        labels = np.full((1, 3, 4), largest)
        if text is None:
            AtomicSaveImaged("pred", tmp_path / "out")(prediction(file, labels))
            assert read_volume(tmp_path / "out" / "case_1.png", 2, kind="label").array.max() == largest
        else:
            with pytest.raises(InputError, match=text):
                AtomicSaveImaged("pred", tmp_path / "more")(prediction(file, labels))
            assert not list((tmp_path / "more").iterdir())
    AtomicSaveImaged("pred", tmp_path / "more")(prediction(picture(tmp_path / "a.tif"), np.full((1, 3, 4), 65536)))
    assert read_volume(tmp_path / "more" / "case_1.tif", 2, kind="label").array.max() == 65536


def test_refusals(tmp_path):
    file = picture(tmp_path / "in" / "a.png")
    save = AtomicSaveImaged("pred", tmp_path / "out")
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
    save_scores = AtomicSaveImaged("pred", tmp_path / "out", kind="probabilities")
    with pytest.raises(InputError, match="12 of 12 voxels are NaN"):
        save_scores(prediction(file, np.full((1, 3, 4), np.nan)))
    with pytest.raises(InputError, match="case 'a': neither 'pred' nor 'image' carries the name of its input file"):
        save({"id": "a", "pred": torch.zeros(1, 3, 4)})
    with pytest.raises(KeyError, match="pred"):
        save({"id": "a", "image": torch.zeros(1, 3, 4)})
    assert not (tmp_path / "out").exists()


def test_a_key_that_may_be_missing(tmp_path):
    save = AtomicSaveImaged("pred", tmp_path / "out", allow_missing_keys=True)
    assert save({"id": "a"}) == {"id": "a"}


def test_monai_reads_what_was_written(tmp_path):
    affine = np.diag([-1.5, 2, 3, 1])
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), affine), tmp_path / "in" / "a.nii.gz")
    labels = np.arange(60).reshape(1, 3, 4, 5) % 7
    AtomicSaveImaged("pred", tmp_path / "out")(prediction(tmp_path / "in" / "a.nii.gz", labels, "a"))
    written = nib.load(tmp_path / "out" / "a.nii.gz")
    np.testing.assert_array_equal(written.affine, affine)
    np.testing.assert_array_equal(written.get_fdata(), labels[0])
