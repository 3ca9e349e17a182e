import logging
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import VOXELS, dicom_series, dicom_slice
from PIL import Image

from pipeline.batch.inputs import find_inputs, shard
from pipeline.errors import InputError
from pipeline.volumes.reading import read_volume


def nifti(file, channels=1):
    shape = (2, 3, 4) if channels == 1 else (2, 3, 4, channels)
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)).to_filename(file)
    return file


def png(file, colour=False):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 5, 3) if colour else (4, 5), np.uint8)).save(file)
    return file


def cases(source, spatial_dims=3, **options):
    return [entry.case for entry in find_inputs(source, spatial_dims=spatial_dims, **options)]


def test_a_folder_of_every_format(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    nifti(tmp_path / "x" / "a.nii.gz")
    nifti(tmp_path / "y" / "a.nii")
    image = sitk.Image(2, 3, 4, sitk.sitkInt16)
    for suffix in (".mha", ".mhd", ".nrrd"):
        sitk.WriteImage(image, str(tmp_path / f"v{suffix}"))
    png(tmp_path / "screenshot.png")
    (tmp_path / "summary.csv").write_text("case")
    (tmp_path / "summary.json").write_text("[]")
    found = find_inputs(tmp_path, spatial_dims=3)
    assert [entry.case for entry in found] == ["v.mha", "v.mhd", "v.nrrd", "x/a", "y/a"]
    assert [entry.files for entry in found[3:]] == [(tmp_path / "x" / "a.nii.gz",), (tmp_path / "y" / "a.nii",)]
    assert found[3].relative == Path("x/a")
    assert found[1].parts == (tmp_path / "v.mhd", tmp_path / "v.raw")
    assert found[0].parts == found[0].files
    assert "1 .csv, 1 .json, 1 .png, 1 .raw" in caplog.text
    assert all(entry.problem is None for entry in found)


def test_pictures_are_cases_in_two_dimensions(tmp_path):
    for name in ("a.png", "b/a.jpg", "c.tif", "d.BMP"):
        png(tmp_path / name)
    assert cases(tmp_path, 2) == ["a", "b/a", "c", "d"]


def test_names_that_differ_in_their_suffix_alone_keep_it(tmp_path):
    for name in ("a.png", "a.jpg", "a.jpg.png", "b.png"):
        png(tmp_path / name)
    # a.jpg.png gives way too: without its suffix it is the full name of a.jpg
    assert cases(tmp_path, 2) == ["a.jpg", "a.jpg.png", "a.png", "b"]


def test_outputs_below_the_inputs_are_no_inputs(tmp_path):
    nifti(tmp_path / "a.nii.gz")
    nifti(tmp_path / "out" / "a.nii.gz")
    assert cases(tmp_path, output_dir=tmp_path / "out") == ["a"]
    assert cases(tmp_path) == ["a", "out/a"]


def test_a_pattern_and_a_list(tmp_path):
    for name in ("p1/t1.nii.gz", "p1/t2.nii.gz", "p2/t1.nii.gz"):
        nifti(tmp_path / "data" / name)
    assert cases(f"{tmp_path}/data/*/t1.nii.gz") == ["p1/t1", "p2/t1"]
    file = tmp_path / "lists" / "cases.txt"
    file.parent.mkdir()
    file.write_text("../data/p2/t1.nii.gz\nhere.nii.gz\nodd.xyz\nmissing.dcm\n")
    found = find_inputs(file, spatial_dims=3)
    far = f"{tmp_path.as_posix().lstrip('/')}/data/p2/t1"
    assert sorted(entry.case for entry in found) == sorted([far, "here", "odd.xyz", "missing"])
    for name, text in {"here": "does not exist", "odd.xyz": "does not exist", "missing": "does not exist"}.items():
        (entry,) = (entry for entry in found if entry.case == name)
        with pytest.raises(InputError, match=text):
            read_volume(entry.files[0], 3)


def test_a_picture_that_is_named_is_a_case_in_any_dimension(tmp_path):
    assert cases(png(tmp_path / "a.png"), 3) == ["a"]
    (tmp_path / "l.txt").write_text("a.png")
    assert cases(tmp_path / "l.txt", 3) == ["a"]


def test_nothing_found(tmp_path):
    with pytest.raises(InputError, match=r"holds no image of 3D \(\.nii.*DICOM\)") as caught:
        find_inputs(tmp_path, spatial_dims=3)
    assert caught.value.file == str(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        find_inputs(tmp_path / "x", spatial_dims=3)
    with pytest.raises(InputError, match="holds no image of 2D"):
        find_inputs(f"{tmp_path}/*.png", spatial_dims=2)


def test_channels_are_joined_only_where_a_network_has_several(tmp_path):
    for name in ("s/brain_0000.nii.gz", "s/brain_0001.nii", "t/brain_0000.nii.gz", "t/brain_0001.nii.gz"):
        nifti(tmp_path / name)
    nifti(tmp_path / "whole.nii.gz", channels=2)
    assert cases(tmp_path) == ["s/brain_0000", "s/brain_0001", "t/brain_0000", "t/brain_0001", "whole"]
    found = find_inputs(tmp_path, channels=2, spatial_dims=3)
    assert [entry.case for entry in found] == ["s/brain", "t/brain", "whole"]
    assert found[0].files == found[0].parts == (tmp_path / "s/brain_0000.nii.gz", tmp_path / "s/brain_0001.nii")
    assert all(entry.problem is None for entry in found)


@pytest.mark.parametrize(
    ("names", "present"),
    [
        (["a_0000.nii"], "[0]"),
        (["a_0001.nii"], "[1]"),
        (["a_0001.nii", "a_0002.nii"], "[1, 2]"),
        (["a_0000.nii", "a_0001.nii", "a_0002.nii"], "[0, 1, 2]"),
        (["a_0000.nii", "a_0000.nii.gz", "a_0001.nii"], "[0, 0, 1]"),
    ],
)
def test_channels_that_do_not_fit_are_the_problem_of_their_case(tmp_path, names, present):
    for name in (*names, "b_0000.nii", "b_0001.nii"):
        nifti(tmp_path / name)
    bad, good = find_inputs(tmp_path, channels=2, spatial_dims=3)
    assert (bad.case, good.case, good.problem) == ("a", "b", None)
    assert bad.problem.reason.startswith(f"has the channels {present} ({names[0]}")
    assert (bad.problem.case, bad.problem.file) == ("a", str(tmp_path))
    assert bad.problem.remedy


def test_numbered_colour_pictures_are_no_channels(tmp_path):
    for number in range(4):
        png(tmp_path / f"frame_{number:04d}.png", colour=True)
    assert cases(tmp_path, 2, channels=3) == [f"frame_{number:04d}" for number in range(4)]


def test_a_group_and_a_file_of_the_same_name(tmp_path):
    for name in ("a_0000.nii", "a_0001.nii", "a.nii"):
        nifti(tmp_path / name)
    assert cases(tmp_path, channels=2) == ["a", "a.nii"]


def test_a_dicom_series_is_one_case(tmp_path):
    dicom_series(tmp_path / "p1" / "ct")
    dicom_series(tmp_path / "p2", names=list("abcd"), SeriesInstanceUID="1.5")
    dicom_slice(tmp_path / "p2" / "report", VOXELS[:, :, 0].T, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")
    dicom_slice(tmp_path / "rt" / "1.dcm", VOXELS[:, :, 0].T, SOPClassUID="1.2.840.10008.5.1.4.1.1.481.3")
    nifti(tmp_path / "p2" / "old.nii.gz")
    found = find_inputs(tmp_path, spatial_dims=3)
    assert [entry.case for entry in found] == ["p1/ct", "p2", "p2/old"]
    assert found[0].files == (tmp_path / "p1" / "ct",)
    assert found[1].parts == tuple(tmp_path / "p2" / name for name in "abcd")
    for entry in found[:2]:
        np.testing.assert_array_equal(read_volume(entry.files[0], 3, entry.case).array[0], VOXELS)
    assert cases(tmp_path / "p1" / "ct") == ["ct"]
    for source in (tmp_path / "p1" / "ct" / "002.dcm", f"{tmp_path}/p1/*/00[01].dcm"):
        (entry,) = find_inputs(source, spatial_dims=3)
        assert len(entry.parts) == 4


def test_several_series_of_one_folder_are_several_cases(tmp_path):
    dicom_series(tmp_path / "p")
    dicom_series(tmp_path / "p", VOXELS + 1, names=list("abcd"), SeriesInstanceUID="1.5")
    for echo in (1, 2):
        names = [f"{number}-{echo}" for number in range(4)]
        dicom_series(tmp_path / "p", VOXELS + 10 * echo, names=names, SeriesInstanceUID="1.6", EchoTime=echo)
    found = {entry.case: entry for entry in find_inputs(tmp_path, spatial_dims=3)}
    added = {"p/1.2.3.4": 0, "p/1.5": 1, "p/1.6-1": 10, "p/1.6-2": 20}
    assert list(found) == list(added)
    for case, more in added.items():
        np.testing.assert_array_equal(read_volume(found[case].files[0], 3).array[0], VOXELS + more)


def test_a_series_that_goes_on_in_another_folder_is_no_whole(tmp_path):
    dicom_series(tmp_path / "DICOM" / "0001")
    (tmp_path / "DICOM" / "0002").mkdir()
    for name in ("002.dcm", "003.dcm"):
        (tmp_path / "DICOM" / "0001" / name).rename(tmp_path / "DICOM" / "0002" / name)
    dicom_series(tmp_path / "copy", SeriesInstanceUID="1.5")
    dicom_series(tmp_path / "original", SeriesInstanceUID="1.5")
    found = find_inputs(tmp_path, spatial_dims=3)
    assert [(entry.case, entry.problem is None) for entry in found] == [
        ("DICOM/0001", False),
        ("DICOM/0002", False),
        ("copy", True),
        ("original", True),
    ]
    assert found[0].problem.reason == f"its series goes on in the folder '{tmp_path / 'DICOM' / '0002'}'"
    assert found[0].problem.case == "DICOM/0001"


def test_a_damaged_dicom_folder_stops_no_other(tmp_path):
    dicom_series(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1.dcm").write_bytes(b"")
    bad, good = find_inputs(tmp_path, spatial_dims=3)
    assert (bad.case, good.case) == ("bad", "good")
    with pytest.raises(InputError, match="letters DICM are missing"):
        read_volume(bad.files[0], 3)


def test_a_structure_set_that_is_named_says_what_it_is(tmp_path):
    file = dicom_slice(tmp_path / "1.dcm", VOXELS[:, :, 0].T, SOPClassUID="1.2.840.10008.5.1.4.1.1.481.3")
    (entry,) = find_inputs(file, spatial_dims=3)
    with pytest.raises(InputError, match="holds no image but RT Structure Set"):
        read_volume(entry.files[0], 3)


def test_each_dicom_file_is_a_case_in_two_dimensions(tmp_path):
    dicom_series(tmp_path / "p", names=["a.dcm", "b.dcm", "c", "1.2.3"])
    dicom_slice(tmp_path / "p" / "sr.dcm", VOXELS[:, :, 0].T, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")
    found = find_inputs(tmp_path, spatial_dims=2)
    assert [entry.case for entry in found] == ["p/1.2.3", "p/a", "p/b", "p/c"]
    assert all(entry.parts == entry.files for entry in found)


def test_shards_share_nothing_and_lack_nothing(tmp_path):
    for number in range(7):
        png(tmp_path / f"{number}.png")
    inputs = find_inputs(tmp_path, spatial_dims=2)
    for num_shards in (1, 2, 3, 7, 9):
        shards = [shard(inputs, num_shards, shard_id) for shard_id in range(num_shards)]
        assert sorted((entry for one in shards for entry in one), key=lambda entry: entry.case) == inputs
        assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert [entry.case for entry in shard(inputs, 3, 1)] == ["1", "4"]


@pytest.mark.parametrize(("num_shards", "shard_id"), [(0, 0), (-1, 0), (2, 2), (2, -1)])
def test_shards_that_there_are_not(num_shards, shard_id):
    with pytest.raises(InputError, match=rf"no shard {shard_id} of {num_shards}") as caught:
        shard([], num_shards, shard_id)
    assert caught.value.remedy


# --- what cannot be opened --------------------------------------------------------------------------------------------


def problems(source, **options):
    return {entry.case: entry.problem for entry in find_inputs(source, spatial_dims=3, **options)}


def test_a_folder_that_cannot_be_looked_into_is_a_case_that_fails(tmp_path, monkeypatch):
    nifti(tmp_path / "pat1" / "a.nii")
    nifti(tmp_path / "pat2" / "a.nii")
    scandir = os.scandir

    def locked(folder):
        if Path(folder).name == "pat2":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", locked)
    found = problems(tmp_path)
    assert found["pat1/a"] is None
    assert str(found["pat2 (unreadable)"]).startswith(
        f"case 'pat2 (unreadable)', file '{tmp_path}/pat2': cannot be searched: Permission denied"
    )


def test_slices_that_cannot_be_opened_are_a_case_that_fails(tmp_path, monkeypatch):
    nifti(tmp_path / "pat1" / "a.nii")
    (tmp_path / "pat2").mkdir()
    for number in range(4):
        (tmp_path / "pat2" / f"IM{number}").write_bytes(b"")
    monkeypatch.setattr(os, "access", lambda file, mode: Path(file).parent.name != "pat2")
    found = problems(tmp_path)
    assert list(found) == ["pat1/a", "pat2 (unreadable)"]
    reason = "cannot be searched: 4 of its files cannot be opened: IM0, IM1, IM2, ..."
    assert found["pat2 (unreadable)"].reason == reason


def test_a_link_to_nowhere_is_a_case_that_fails(tmp_path):
    nifti(tmp_path / "a.nii")
    (tmp_path / "patient9").symlink_to(tmp_path / "gone")
    found = problems(tmp_path)
    assert "cannot be opened: patient9" in str(found.pop(f"{tmp_path.name} (unreadable)"))
    assert found == {"a": None}


def store_in(folder, *names):
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / ".zattrs").write_text("{}")
    return folder


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_zarr_stores_are_cases_without_their_suffix(tmp_path, spatial_dims):
    store_in(tmp_path, "p1/x.ome.zarr", "p1/1.2.zarr", "Y.OME.ZARR", "plain", "#.zarr", "x_0000.zarr", "x_0001.zarr")
    found = find_inputs(tmp_path, channels=2, spatial_dims=spatial_dims)
    expected = {"p1/x": "p1/x.ome.zarr", "p1/1.2": "p1/1.2.zarr", "Y": "Y.OME.ZARR", "plain": "plain", "#": "#.zarr"}
    expected |= {"x_0000": "x_0000.zarr", "x_0001": "x_0001.zarr"}
    assert {entry.case: entry.store for entry in found} == {case: str(tmp_path / p) for case, p in expected.items()}
    assert all(entry.files == (Path(entry.store),) and entry.parts == () for entry in found)
    assert [entry.case for entry in find_inputs(tmp_path / "p1" / "x.ome.zarr", spatial_dims=3)] == ["x"]


def test_a_store_beside_a_file_of_its_name(tmp_path):
    store_in(tmp_path, "x.zarr", "x.ome.zarr")
    (tmp_path / "x.nii").write_bytes(b"")
    found = find_inputs(tmp_path, spatial_dims=3)
    assert [(entry.case, entry.store is None) for entry in found] == [
        ("x.nii", True),
        ("x.ome.zarr", False),
        ("x.zarr", False),
    ]


def test_urls_are_named_by_their_last_part_if_it_is_enough(tmp_path):
    urls = ["s3://bucket/a/x.ome.zarr", "https://user:secret@host:80/y.zarr?version=1", "simplecache::s3://b/../z.zarr"]
    (tmp_path / "list.txt").write_text("\n".join(urls))
    found = find_inputs(tmp_path / "list.txt", spatial_dims=3)
    assert [(entry.case, entry.store) for entry in found] == [("x", urls[0]), ("y", urls[1]), ("z", urls[2])]
    (tmp_path / "list.txt").write_text("https://user:secret@host/a/x.zarr\ns3://bucket/b/x.zarr")
    found = find_inputs(tmp_path / "list.txt", spatial_dims=3)
    assert [entry.case for entry in found] == ["bucket/b/x.zarr", "host/a/x.zarr"]
