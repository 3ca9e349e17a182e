import sys

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_files import SHAPE, VOXELS, change, dicom_series, dicom_slice, turned

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


def test_nothing_is_logged_of_what_goes_well(series, tmp_path, caplog):
    caplog.set_level("INFO")
    write_dicom_seg(tmp_path / "seg.dcm", LABELS, series, CLASSES)
    assert not caplog.records


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


def test_equal_content_gives_equal_bytes_at_any_time(series, tmp_path):
    for name in ("one", "two"):  # highdicom notes the microsecond
        write_dicom_seg(tmp_path / f"{name}.dcm", LABELS, series, CLASSES)
    assert (tmp_path / "one.dcm").read_bytes() == (tmp_path / "two.dcm").read_bytes()
    one = pydicom.dcmread(tmp_path / "one.dcm")
    uids = {one.SOPInstanceUID, one.SeriesInstanceUID, one.DimensionOrganizationSequence[0].DimensionOrganizationUID}
    times = {str(element.value) for element in one.iterall() if element.VR in ("DA", "TM", "DT")}
    assert times == {"", "19000101", "000000"}
    assert len(uids) == 3
    assert all(uid.is_valid for uid in uids)
    assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID
    changes = {
        "labels": (LABELS[::-1].copy(), series, CLASSES, "U-Net"),
        "names": (LABELS, series, [*CLASSES[:-1], "cyst"], "U-Net"),
        "algorithm": (LABELS, series, CLASSES, "another"),
        "series": (LABELS, dicom_series(tmp_path / "other", axes=turned()), CLASSES, "U-Net"),
    }
    for name, (labels, source, classes, algorithm) in changes.items():
        write_dicom_seg(tmp_path / "x.dcm", labels, source, classes, algorithm)
        other = pydicom.dcmread(tmp_path / "x.dcm")
        assert other.SOPInstanceUID not in uids, name
        assert other.SeriesInstanceUID not in uids, name


def test_the_date_is_the_newest_of_the_source(series, tmp_path):
    write_dicom_seg(tmp_path / "seg.dcm", LABELS, series, CLASSES)
    undated = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (undated.ContentDate, undated.ContentTime) == ("19000101", "000000")
    change(series / "a", StudyDate="20240229", StudyTime="101112", ContentDate="20240301", ContentTime="000102.5")
    change(series / "c", StudyDate="20240229", StudyTime="101112", ContentDate="20240301", ContentTime="")
    write_dicom_seg(tmp_path / "seg.dcm", LABELS, series, CLASSES)
    dated = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (dated.ContentDate, dated.ContentTime) == ("20240301", "000102.5")
    assert "InstanceCreationDate" not in dated


@pytest.mark.parametrize("placed", [True, False])
def test_one_image(tmp_path, placed):
    where = {} if placed else dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID"))
    file = dicom_slice(tmp_path / "a.dcm", VOXELS[:, :, 0].T, InstanceNumber=1, **where)
    labels = LABELS[:, :, 0].T
    if not placed:
        with pytest.raises(InputError, match=r"lacks what a segmentation must repeat .*Remedy: write the result as"):
            write_dicom_seg(tmp_path / "seg.dcm", labels, file, CLASSES)
        return
    write_dicom_seg(tmp_path / "seg.dcm", labels, file, CLASSES)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    frames = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    frames = frames[: 2 * labels.size].reshape(2, *labels.shape)
    np.testing.assert_array_equal(frames, [labels == 1, labels == 2])
    with pytest.raises(InputError, match=r"has shape \(16, 12\).*has \(12, 16\)"):
        write_dicom_seg(tmp_path / "seg.dcm", labels.T, file, CLASSES)


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
