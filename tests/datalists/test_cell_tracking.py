"""Annotated frames become cases, sequences are groups, and what has no whole segmentation is left out."""

import re

import numpy as np
import pytest
from layout_files import check, drawn, noise, reasons, refusal, stamps, tif

from pipeline.datalists.cell_tracking import list_cell_tracking

CELLS = drawn("110000", "110022", "000022", "000000").astype(np.uint16)


@pytest.fixture
def top(tmp_path):
    """Sequence 01 with frames 0..3, of which 1 and 3 are annotated; 02 with frames 0 and 1, of which 0 is."""
    folder = tmp_path / "DIC-C2DH-Toy"
    for sequence, frames, annotated in (("01", 4, (1, 3)), ("02", 2, (0,))):
        for frame in range(frames):
            tif(folder / sequence / f"t{frame:03d}.tif", noise(int(sequence) * 10 + frame, 4, 6))
        for frame in annotated:
            tif(folder / f"{sequence}_GT" / "SEG" / f"man_seg{frame:03d}.tif", CELLS)
            tif(folder / f"{sequence}_GT" / "TRA" / f"man_track{frame:03d}.tif", CELLS * 7)
        (folder / f"{sequence}_GT" / "TRA" / "man_track.txt").write_text("7 0 3 0\n")
    return folder


def test_annotated_frames_are_cases_and_nothing_is_written(top, tmp_path):
    before = stamps(tmp_path)
    listing = list_cell_tracking(top)
    assert stamps(tmp_path) == before
    listed = listing.data_list
    assert [(case.id, case.image, case.label, case.group) for case in listed.cases] == [
        ("01_t001", "01/t001.tif", "01_GT/SEG/man_seg001.tif", "01"),
        ("01_t003", "01/t003.tif", "01_GT/SEG/man_seg003.tif", "01"),
        ("02_t000", "02/t000.tif", "02_GT/SEG/man_seg000.tif", "02"),
    ]
    folds = [case.fold for case in listed.cases]
    assert folds[0] == folds[1] == 1 - folds[2]
    assert (listed.name, listed.spatial_dims, listed.label_kind) == ("DIC-C2DH-Toy", 2, "instances")
    assert listed.description == "3 frames with gold truth of 2 sequences."
    assert listing.dataset_dir == top.resolve()
    unsegmented = "the frame has no segmentation"
    assert reasons(listing) == [("t000.tif", unsegmented), ("t001.tif", unsegmented), ("t002.tif", unsegmented)]
    assert check(listing, tmp_path).with_foreground == 3


def test_silver_truth(top, tmp_path):
    for frame in range(4):
        tif(top / "01_ST" / "SEG" / f"man_seg{frame:03d}.tif", CELLS)
    tif(top / "02_ST" / "SEG" / "man_seg001.tif", CELLS)
    listing = list_cell_tracking(top, truth="silver")
    assert [case.label for case in listing.data_list.cases] == [
        *(f"01_ST/SEG/man_seg{frame:03d}.tif" for frame in range(4)),
        "02_ST/SEG/man_seg001.tif",
    ]
    assert "5 frames with silver truth" in listing.data_list.description


def test_frames_with_tracked_cells_that_have_no_mask_are_dropped_or_counted(top):
    lonely = drawn("300000", "000000", "000000", "400000").astype(np.uint16)  # 3 lies on a mask, 4 on none
    tif(top / "01_GT" / "TRA" / "man_track003.tif", lonely)
    (top / "02_GT" / "TRA" / "man_track000.tif").unlink()
    kept = list_cell_tracking(top, partial="keep")
    assert kept.data_list.description == (
        "3 frames with gold truth of 2 sequences; in 1 of them, tracked cells without a mask count as background."
    )
    dropped = list_cell_tracking(top)
    assert [case.id for case in dropped.data_list.cases] == ["01_t001", "02_t000"]
    assert dropped.data_list.description == "2 frames with gold truth of 2 sequences."
    assert ("t003.tif", "tracked cells have no mask (--partial keep lists the frame)") in reasons(dropped)
    assert len(dropped.left_out) == len(kept.left_out) + 1
    tif(top / "01_GT" / "TRA" / "man_track003.tif", lonely[:2])
    strange = "shape (4, 6) differs from (2, 6) of '', so case '01_t003' is left out"
    assert strange in [re.sub(r"of '[^']*'", "of ''", reason) for _, reason in reasons(list_cell_tracking(top))]


def test_where_every_frame_is_partial_the_error_says_how_to_keep_them(top):
    lonely = drawn("300000", "000000", "000000", "400000").astype(np.uint16)
    for file in top.glob("*_GT/TRA/man_track*.tif"):
        tif(file, lonely)
    message = refusal(list_cell_tracking, top)
    assert "has no frame whose tracked cells all have a mask, in 3 frames" in message
    assert "--partial keep" in message
    assert len(list_cell_tracking(top, partial="keep").data_list.cases) == 3


def test_volumes_and_single_slices_of_them(tmp_path):
    folder = tmp_path / "Fluo-N3DH-Toy"
    for sequence in ("01", "02"):
        for frame in range(2):
            tif(folder / sequence / f"t{frame:03d}.tif", noise(int(sequence) * 10 + frame, 3, 4, 6))
        tif(folder / f"{sequence}_GT" / "SEG" / "man_seg000.tif", np.stack([CELLS] * 3))
        tif(folder / f"{sequence}_GT" / "SEG" / "man_seg_001_002.tif", CELLS)
    listing = list_cell_tracking(folder)
    assert listing.data_list.spatial_dims == 3
    assert [case.id for case in listing.data_list.cases] == ["01_t000", "02_t000"]
    assert reasons(listing) == [
        *[("man_seg_001_002.tif", "only a slice of the volume is segmented")] * 2,
        *[("t001.tif", "the frame has no segmentation")] * 2,
    ]
    assert check(listing, tmp_path).cases == 2
    for sequence in ("01", "02"):
        (folder / f"{sequence}_GT" / "SEG" / "man_seg000.tif").unlink()
    message = refusal(list_cell_tracking, folder)
    assert "man_seg_001_002.tif: only a slice of the volume is segmented" in message
    assert "--truth silver" not in message
    for sequence in ("01", "02"):
        tif(folder / f"{sequence}_ST" / "SEG" / "man_seg001.tif", np.stack([CELLS] * 3))
    message = refusal(list_cell_tracking, folder)
    assert "man_seg_001_002.tif: only a slice of the volume is segmented" in message
    assert "--truth silver" in message
    assert [case.id for case in list_cell_tracking(folder, truth="silver").data_list.cases] == ["01_t001", "02_t001"]


def test_a_segmentation_without_a_frame_is_left_out(top):
    (top / "01" / "t003.tif").unlink()
    assert ("man_seg003.tif", "the segmentation has no frame") in reasons(list_cell_tracking(top))


def test_frames_are_linked_into_another_folder(top, tmp_path):
    listing = list_cell_tracking(top, tmp_path / "data")
    assert listing.dataset_dir == tmp_path.resolve() / "data"
    assert listing.data_list == list_cell_tracking(top).data_list
    assert (listing.dataset_dir / "01" / "t001.tif").samefile(top / "01" / "t001.tif")


def test_one_sequence_makes_no_two_folds(top):
    (top / "02_GT" / "SEG" / "man_seg000.tif").unlink()
    assert "1 groups" in refusal(list_cell_tracking, top)


def test_a_challenge_set_without_truth_is_refused_with_the_tree(top):
    for sequence in ("01", "02"):
        (top / f"{sequence}_GT").rename(top / f"hidden{sequence}")
    message = refusal(list_cell_tracking, top)
    assert "has no frame with a gold segmentation (t000.tif: the frame has no segmentation" in message
    assert "<folder>/01/t000.tif, t001.tif, ..." in message
    assert "01_GT/SEG/man_seg000.tif" in message
