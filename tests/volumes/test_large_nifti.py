import gzip
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.volumes import large_nifti as module
from pipeline.volumes.label_zarr import scratch_labels
from pipeline.volumes.large_nifti import large_nifti, write_large_labels
from pipeline.volumes.reading import read_header, read_volume
from pipeline.volumes.writing import write_label_map

AFFINE = np.array([[0, -0.5, 0, 10], [2.0, 0, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]])


def box_of(*ends):
    return tuple(slice(*pair) for pair in ends)


def write(file, array, kind=nib.Nifti1Image, slope=None, inter=0.0, order="<"):
    header = kind.header_class(endianness=order)
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    header.set_sform(AFFINE, 1)
    header.set_slope_inter(slope or 1, inter)
    with gzip.open(file, "wb") if file.name.endswith(".gz") else file.open("wb") as stream:
        header.write_to(stream)
        stream.write(bytes(int(header["vox_offset"]) - stream.tell()))
        stream.write(array.astype(array.dtype.newbyteorder(order)).tobytes(order="F"))
    return file


def random(*shape, dtype="i2"):
    return np.random.default_rng(0).integers(0, 120, shape).astype(dtype)


BOX = box_of((3, 11), (0, 7), (5, 6))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(
    ("shape", "dtype", "slope", "order"),
    [
        ((11, 7, 9), "i2", None, "<"),
        ((11, 7, 9), "i2", None, ">"),
        ((11, 7, 9), "f4", None, ">"),
        ((11, 7, 9), "u1", 0.5, "<"),
        ((11, 7, 9), "i4", 3.0, ">"),
        ((11, 7, 9, 3), "i2", None, "<"),
        ((11, 7, 9, 3), "f8", 2.0, ">"),
    ],
)
def test_boxes_are_those_of_the_whole(tmp_path, suffix, kind, shape, dtype, slope, order):
    file = write(tmp_path / f"x{suffix}", random(*shape, dtype=dtype), kind, slope, -1.5 if slope else 0, order)
    whole = read_volume(file, 3)
    with large_nifti(file, 3, tmp_path / "scratch") as reader:
        assert (reader.shape, reader.channels, reader.dtype) == (whole.shape, whole.channels, whole.dtype)
        np.testing.assert_array_equal(reader.affine, whole.affine)
        assert reader.chunk == (11, 7, 1)
        for box in (BOX, box_of((0, 11), (0, 7), (0, 9)), box_of((10, 11), (6, 7), (8, 9))):
            found = pickle.loads(pickle.dumps(reader)).read(box)
            np.testing.assert_array_equal(found, whole.array[:, *box])
            assert found.dtype == whole.dtype
            assert found.flags.c_contiguous
            assert found.flags.writeable
        with pytest.raises(ValueError, match="does not lie within"):
            reader.read(box_of((0, 12), (0, 7), (0, 9)))
    assert not (tmp_path / "scratch").exists() or not list((tmp_path / "scratch").iterdir())


def test_a_slice_as_2d(tmp_path):
    file = write(tmp_path / "x.nii.gz", random(11, 7, 1))
    with large_nifti(file, 2, tmp_path) as reader:
        np.testing.assert_array_equal(reader.read(box_of((3, 11), (2, 7))), read_volume(file, 2).array[:, 3:, 2:])


def test_only_the_pages_of_the_box_are_read(tmp_path):
    """A sparse file of 8 GiB is looked at from its first plane to its last, and no page of it stays."""
    file = write(tmp_path / "x.nii", random(1, 1, 1, dtype="u1"))
    header = nib.load(file).header.copy()
    header.set_data_shape((2048, 2048, 2048))
    with file.open("wb") as stream:
        header.write_to(stream)
        stream.seek(352 + 2048**3 - 1)
        stream.write(b"\x07")
    with large_nifti(file, 3, tmp_path) as reader:
        before = resident()
        for start in range(0, 2048, 64):
            reader.read(box_of((0, 64), (0, 64), (start, start + 8)))
        last = reader.read(box_of((2046, 2048), (2047, 2048), (2047, 2048)))
        assert last.ravel().tolist() == [0, 7]
        assert resident() - before < 64 << 20


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("damage", ["cut", "checksum", "checksum far behind the voxels", "short"])
def test_a_damaged_gzip_is_found_as_the_reader_finds_it(tmp_path, damage):
    file = write(tmp_path / "x.nii.gz", random(30, 30, 30))
    packed = file.read_bytes()
    if damage == "cut":
        file.write_bytes(packed[: len(packed) * 2 // 3])
    elif damage.startswith("checksum"):
        packed = gzip.compress(gzip.decompress(packed) + random(1 << 20).tobytes()) if "far" in damage else packed
        file.write_bytes(packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:])
    else:
        file.write_bytes(gzip.compress(gzip.decompress(packed)[:-100]))
    with pytest.raises(InputError) as expected:
        read_volume(file, 3, "case")
    with pytest.raises(InputError) as caught, large_nifti(file, 3, tmp_path / "scratch", "case"):
        pass
    assert str(caught.value) == str(expected.value)
    assert not list((tmp_path / "scratch").iterdir())


def test_a_header_that_is_refused(tmp_path):
    file = write(tmp_path / "x.nii", random(5, 6, 7))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="is truncated: the header claims"), large_nifti(file, 3, tmp_path):
        pass
    with pytest.raises(InputError, match=r"is no NIfTI file"), large_nifti(picture(tmp_path), 2, tmp_path):
        pass


def picture(folder):
    write_label_map(folder / "x.png", np.zeros((4, 4), np.uint8))
    return folder / "x.png"


def test_a_disk_that_is_too_small(tmp_path, monkeypatch):
    file = write(tmp_path / "x.nii.gz", random(30, 30, 30))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=module.SPARE + 53_999))
    with (
        pytest.raises(InputError, match=r"take 0\.0 GiB unpacked.*free in '.*scratch'.*another folder for scratch"),
        large_nifti(file, 3, tmp_path / "scratch"),
    ):
        pass
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=module.SPARE + 54_000))
    with large_nifti(file, 3, tmp_path / "scratch"):
        pass


def test_what_a_killed_process_left_is_removed(tmp_path):
    file = write(tmp_path / "x.nii.gz", random(5, 6, 7))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here, elsewhere = f".unpacked-{module.HOST}-{dead.pid}-0123abcd.raw", f".unpacked-other-{dead.pid}-0123abcd.raw"
    mine = f".unpacked-{module.HOST}-{os.getpid()}-0123abcd.raw"
    for name in (here, elsewhere, mine):
        (tmp_path / name).write_bytes(b"x")
    with large_nifti(file, 3, tmp_path):
        assert len(list(tmp_path.glob(".unpacked-*"))) == 3
    assert {path.name for path in tmp_path.glob(".unpacked-*")} == {elsewhere, mine}


def test_voxels_that_are_not_finite(tmp_path):
    array = np.zeros((5, 6, 7), np.float32)
    array[4, 5, 6] = np.inf
    file = write(tmp_path / "x.nii", array)
    with large_nifti(file, 3, tmp_path) as reader:
        reader.read(box_of((0, 4), (0, 6), (0, 7)))
        with pytest.raises(InputError, match=r"x\.nii.*the first at \(1, 1, 0\) of the box that begins at \(3, 4, 6\)"):
            reader.read(box_of((3, 5), (4, 6), (6, 7)))


@pytest.mark.parametrize(
    ("suffix", "kind", "highest", "kept"),
    [
        (".nii", nib.Nifti1Image, 3, "u1"),
        (".nii", nib.Nifti2Image, 300, "u4"),
        (".nii.gz", nib.Nifti1Image, 300, "u4"),
        (".nii.gz", nib.Nifti2Image, 2**33, "u8"),
    ],
)
def test_the_label_file_is_that_of_the_whole(tmp_path, suffix, kind, highest, kept):
    image = write(tmp_path / f"x{suffix}", random(40, 30, 21), kind)
    labels = np.random.default_rng(1).integers(0, highest + 1, (40, 30, 21)).astype(kept)
    labels[3, 4, 5] = highest
    store = scratch_labels(tmp_path / "scratch", labels.shape, kept, (16, 16, 8))
    store.write(box_of((0, 40), (0, 30), (0, 21)), labels)
    write_label_map(tmp_path / f"whole{suffix}", labels, like=image)
    for number, options in enumerate(({}, {"highest": highest}, {"slab": 1}, {"slab": 40 * 30 * 10 * labels.itemsize})):
        file = tmp_path / f"{number}{suffix}"
        write_large_labels(file, store, read_header(image, 3), **options)
        unpacked = gzip.decompress if suffix == ".nii.gz" else bytes
        assert unpacked(file.read_bytes()) == unpacked((tmp_path / f"whole{suffix}").read_bytes())
    np.testing.assert_array_equal(read_volume(file, 3, kind="label").array[0], labels)


def test_a_label_file_of_one_slice(tmp_path):
    image = write(tmp_path / "x.nii", random(40, 30, 1))
    labels = random(40, 30, dtype="u1")
    store = scratch_labels(tmp_path / "scratch", labels.shape, "u1")
    store.write(box_of((0, 40), (0, 30)), labels)
    write_label_map(tmp_path / "whole.nii", labels, like=image)
    write_large_labels(tmp_path / "mine.nii", store, read_header(image, 2), slab=100)
    assert (tmp_path / "mine.nii").read_bytes() == (tmp_path / "whole.nii").read_bytes()


def test_labels_are_read_in_slabs_of_whole_chunks(tmp_path):
    image = write(tmp_path / "x.nii", random(4, 4, 30))
    store = scratch_labels(tmp_path / "scratch", (4, 4, 30), "u1", (4, 4, 8))
    read = []

    class Watched:
        shape, dtype, chunk = store.shape, store.dtype, store.chunk

        def read(self, box):
            read.append((box[2].start, box[2].stop))
            return store.read(box)

    write_large_labels(tmp_path / "y.nii", Watched(), read_header(image, 3), highest=1, slab=16 * 20)
    assert read == [(0, 16), (16, 30)]


def test_a_failure_leaves_no_file(tmp_path):
    image = write(tmp_path / "x.nii", random(4, 4, 4))
    store = scratch_labels(tmp_path / "scratch", (4, 4, 4), "u2")
    store.write(box_of((0, 4), (0, 4), (0, 4)), np.full((4, 4, 4), 300))
    with pytest.raises(ValueError, match="label 300 is above the highest"):
        write_large_labels(tmp_path / "y.nii", store, read_header(image, 3), highest=3)
    other = scratch_labels(tmp_path / "other", (4, 4, 5), "u2")
    with pytest.raises(InputError, match=r"has shape \(4, 4, 5\), but the image"):
        write_large_labels(tmp_path / "y.nii", other, read_header(image, 3))
    with pytest.raises(InputError, match="is no name of a NIfTI file"):
        write_large_labels(tmp_path / "y.png", store, read_header(image, 3))
    assert {path.name for path in tmp_path.iterdir()} == {"x.nii", "scratch", "other"}
