import pickle
import sys

import highdicom
import nibabel as nib
import numpy as np
import pytest
import torch
from dicom_files import SHAPE, dicom_series, dicom_slice
from monai.data import MetaTensor

from pipeline.errors import InputError
from pipeline.transforms.load_image import StrictLoadImaged
from pipeline.transforms.save_dicom_seg import SaveDicomSegd

CLASSES = ["background", "liver", "vessel"]
LABELS = torch.arange(np.prod(SHAPE)).reshape(1, *SHAPE) // 7 % 3


def case_of(source, labels=LABELS, name="patient/1.2.scan"):
    return {"id": name, "pred": MetaTensor(labels, meta={"filename_or_obj": str(source)})}


def test_a_case_that_came_as_dicom(tmp_path):
    series = dicom_series(tmp_path / "scan", names=["d", "b", "c", "a"])
    save = SaveDicomSegd("pred", tmp_path / "out", CLASSES, algorithm="our net")
    loaded = StrictLoadImaged("image", 3)({"id": "patient/1.2.scan", "image": str(series)})
    for data in (case_of(series), case_of(series / "b"), {**loaded, "pred": LABELS}):
        saved = save({**data, "outputs": [tmp_path / "out" / "label.nii.gz"]})
        file = tmp_path / "out" / "patient" / "1.2.scan.seg.dcm"
        assert saved["outputs"] == [tmp_path / "out" / "label.nii.gz", file]
        seg = highdicom.seg.segread(file)
        assert [item.SegmentLabel for item in seg.SegmentSequence] == CLASSES[1:]
        assert seg.get_segment_description(1).algorithm_identification.name == "our net"
        assert seg.get_volume(combine_segments=True).array.sum() == LABELS.sum()
        file.unlink()


def test_one_image(tmp_path):
    image = dicom_slice(tmp_path / "a.dcm", np.zeros((12, 16), np.uint16), InstanceNumber=1)
    labels = torch.arange(12 * 16).reshape(1, 12, 16) % 3
    SaveDicomSegd("pred", tmp_path, CLASSES)(case_of(image, labels, "a"))
    seg = highdicom.seg.segread(tmp_path / "a.seg.dcm")
    np.testing.assert_array_equal(np.unique(seg.pixel_array, return_counts=True)[1], [2 * 128, 128])


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
def test_a_case_that_is_no_dicom_fails_saying_so(tmp_path, suffix):
    file = tmp_path / f"scan{suffix}"
    if suffix == ".nii.gz":
        nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4)), file)
    with pytest.raises(InputError, match=r"is no DICOM series\. Remedy: leave out --dicom_seg") as caught:
        SaveDicomSegd("pred", tmp_path / "out", CLASSES)(case_of(file))
    assert (caught.value.case, caught.value.file) == ("patient/1.2.scan", str(file))
    assert not (tmp_path / "out").exists()


def test_labels_that_have_no_name(tmp_path):
    series = dicom_series(tmp_path / "scan")
    with pytest.raises(InputError, match="labels from 0 to 2, where there are 2 classes") as caught:
        SaveDicomSegd("pred", tmp_path / "out", CLASSES[:2])(case_of(series))
    assert caught.value.case == "patient/1.2.scan"


def test_without_highdicom_no_case_is_begun(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match=r'not installed.*pip install "unet-pipeline\[dicom\]"'):
        SaveDicomSegd("pred", tmp_path, CLASSES)


def test_it_travels_to_another_process(tmp_path):
    assert pickle.loads(pickle.dumps(SaveDicomSegd("pred", tmp_path, CLASSES))).class_names == CLASSES
