import sys

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_files import SHAPE, VOXELS, change, dicom_series, turned

from pipeline.errors import InputError
from pipeline.volumes.dicom_seg import Segment, write_dicom_seg
from pipeline.volumes.reading import read_volume

CLASSES = ["background", "liver", Segment("vessel", property_type=("59820001", "SCT", "Blood vessel")), "tumour"]
LABELS = (np.arange(np.prod(SHAPE)).reshape(SHAPE) // 7 % 3).astype(np.uint8)  # 0, 1, 2; no tumour


@pytest.fixture
def series(tmp_path):
    """An oblique series whose file names are not in the order of its slices."""
    return dicom_series(tmp_path / "scan", axes=turned(), names=["c", "a", "d", "b"])


def masks_by_position(file):
    """Decode by hand: {(segment, source instance): (rows, columns)}, and the positions of the frames."""
    found, positions = {}, {}
    seg = pydicom.dcmread(file)
    frames = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    frames = frames[: seg.NumberOfFrames * seg.Rows * seg.Columns].reshape(-1, seg.Rows, seg.Columns)
    for groups, frame in zip(seg.PerFrameFunctionalGroupsSequence, frames, strict=True):
        segment = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        instance = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        found[segment, instance] = frame
        positions[instance] = groups.PlanePositionSequence[0].ImagePositionPatient
    return found, positions


def test_segments_lie_where_the_labels_are(series, tmp_path):
    file = tmp_path / "out" / "seg.dcm"
    write_dicom_seg(file, LABELS, series, CLASSES)
    masks, positions = masks_by_position(file)
    for number, name in enumerate(["c", "a", "d", "b"]):  # from the first to the last along the normal
        slice_ = pydicom.dcmread(series / name)
        np.testing.assert_allclose(positions[slice_.SOPInstanceUID], slice_.ImagePositionPatient, atol=1e-6)
        for segment in (1, 2):
            expected = segment == LABELS[:, :, number].T
            np.testing.assert_array_equal(masks[segment, slice_.SOPInstanceUID], expected)
    assert len(masks) == 8


def test_names_codes_and_references(series, tmp_path):
    write_dicom_seg(tmp_path / "seg.dcm", LABELS, series / "a", CLASSES, algorithm="our net")
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    source = pydicom.dcmread(series / "a")
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["liver", "vessel", "tumour"]
    assert seg.get_segment_description(2).segmented_property_type.meaning == "Blood vessel"
    assert {item.SegmentAlgorithmType for item in seg.SegmentSequence} == {"AUTOMATIC"}
    assert seg.get_segment_description(1).algorithm_identification.name == "our net"
    for same in ("FrameOfReferenceUID", "StudyInstanceUID", "PatientID", "Rows", "Columns"):
        assert seg[same].value == source[same].value
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID
    referenced = seg.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == source.SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence} == {
        pydicom.dcmread(file).SOPInstanceUID for file in series.iterdir()
    }


def test_highdicom_reads_the_affine_of_the_image(series, tmp_path):
    write_dicom_seg(tmp_path / "seg.dcm", LABELS, series, CLASSES)
    volume = highdicom.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
    to_ras = np.diag([-1, -1, 1, 1])
    source = read_volume(series, 3)
    # highdicom counts (slice, row, column) and turns the slices round to make that right-handed.
    for index in ((0, 0, 0), (5, 3, 1), (15, 11, 3)):
        place = source.affine @ [*index, 1]
        slice_, row, column = np.rint(np.linalg.solve(volume.affine, to_ras @ place)).astype(int)[:3]
        np.testing.assert_allclose(to_ras @ volume.affine @ [slice_, row, column, 1], place, atol=1e-4)
        assert volume.array[slice_, row, column] == LABELS[index]


def test_no_voxel_of_any_class(series, tmp_path):
    write_dicom_seg(tmp_path / "seg.dcm", np.zeros(SHAPE), series, CLASSES)
    masks, _ = masks_by_position(tmp_path / "seg.dcm")
    assert len(masks) == 3 * 4
    assert not any(mask.any() for mask in masks.values())


@pytest.mark.parametrize(
    ("labels", "classes", "text"),
    [
        (LABELS[:-1], CLASSES, r"has shape \(15, 12, 4\).*has \(16, 12, 4\)"),
        (LABELS + 2, CLASSES, "labels from 2 to 4, where there are 4 classes"),
        (LABELS.astype(int) - 1, CLASSES, "labels from -1 to 1"),
        (LABELS * 0.5, CLASSES, "not whole numbers"),
        (LABELS * 0, ["background"], "no class beside the background"),
    ],
)
def test_labels_that_do_not_fit(series, tmp_path, labels, classes, text):
    with pytest.raises(InputError, match=text) as caught:
        write_dicom_seg(tmp_path / "seg.dcm", labels, series, classes, case="c7")
    assert (caught.value.case, caught.value.file) == ("c7", str(tmp_path / "seg.dcm"))
    assert caught.value.remedy
    assert not (tmp_path / "seg.dcm").exists()


def test_a_source_that_lacks_its_study(series, tmp_path):
    for file in series.iterdir():
        change(file, StudyInstanceUID=None)
    with pytest.raises(InputError, match=r"the series lacks .*StudyInstanceUID"):
        write_dicom_seg(tmp_path / "seg.dcm", LABELS, series, CLASSES)


def test_a_source_that_is_no_series(tmp_path):
    with pytest.raises(InputError, match="holds no DICOM file") as caught:
        write_dicom_seg(tmp_path / "seg.dcm", LABELS, tmp_path, CLASSES, case="c7")
    assert (caught.value.case, caught.value.file) == ("c7", str(tmp_path))


def test_without_highdicom(series, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match=r"not installed.*unet-pipeline\[dicom\]"):
        write_dicom_seg(tmp_path / "seg.dcm", LABELS, series, CLASSES)


def test_a_segmentation_beside_its_source_is_no_slice_of_it(series):
    write_dicom_seg(series / "seg.dcm", LABELS, series, CLASSES)
    np.testing.assert_array_equal(read_volume(series, 3).array[0], VOXELS)
