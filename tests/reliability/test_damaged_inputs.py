"""Files cut and changed at random, by the hundred: an error with a name, or the right result; never a crash.

What is right for a damaged file tells another program's reader, or a few lines that know the format; or, where they
refuse it, the bytes at the place where the voxels were written.
"""

import gzip
import json
import random
import re
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from bad_files import stored, voxels, write_volume
from batch_process import BatchProcess, LittleMemory
from dicom_files import dicom_series
from PIL import Image, ImageSequence
from volume_files import itk_image, tiff

GIBIBYTE = 2**30


def damaged(whole, chance):
    """Cut the bytes anywhere, or change up to three of them, one bit or all eight; half of these near the beginning."""
    if chance.random() < 0.25:
        return whole[: chance.randrange(len(whole))]
    changed = bytearray(whole)
    while changed == whole:
        for _ in range(chance.choice([1, 1, 1, 2, 3])):
            place = chance.randrange(min(400, len(whole)) if chance.random() < 0.5 else len(whole))
            one_bit = changed[place] ^ (1 << chance.randrange(8))
            changed[place] = one_bit if chance.random() < 0.7 else chance.randrange(256)
    return bytes(changed)


# writing


def sound(number):
    """Small numbers, which pack well, as scans do."""
    return (voxels(number) // 100).astype(np.int16)


def picture(number):
    return sound(number)[..., 0].clip(0, 255).astype(np.uint8)


def pages(number):
    return np.moveaxis(sound(number), -1, 0)


def write_packed(file, array):
    sitk.WriteImage(itk_image(array), str(file), True)


def write_packed_tiff(file, array):
    tiff(file, array, compression="zlib")


def write_png(file, array):
    Image.fromarray(array).save(file)


# understanding: each returns the voxels of a file that may be damaged, or raises


def by_nibabel(file):
    return np.asarray(nib.load(file).dataobj)


METAIMAGE_TYPES = {"MET_SHORT": "i2", "MET_USHORT": "u2", "MET_UCHAR": "u1", "MET_CHAR": "i1"}
TRUTH = {"True": True, "False": False}


def by_fields_of_metaimage(file):
    head, _, rest = file.read_bytes().partition(b"\nElementDataFile = ")
    fields = dict(re.findall(r"(?m)^(\w+) = (.*)$", head.decode("latin-1")))
    name, _, rest = rest.partition(b"\n")
    content = rest if name == b"LOCAL" else (file.parent / name.decode()).read_bytes()
    if TRUTH[fields.get("CompressedData", "False")]:
        content = zlib.decompress(content)
    order = ">" if TRUTH[fields["BinaryDataByteOrderMSB"]] else "<"
    return shaped(content, order + METAIMAGE_TYPES[fields["ElementType"]], fields["DimSize"])


NRRD_TYPES = {"short": "i2", "unsigned short": "u2"}


def by_fields_of_nrrd(file):
    head, _, content = file.read_bytes().partition(b"\n\n")
    fields = dict(re.findall(r"(?m)^([\w ]+): (.*)$", head.decode("latin-1")))
    if fields["encoding"] == "gzip":
        content = gzip.decompress(content)
    order = {"little": "<", "big": ">"}[fields["endian"]]
    return shaped(content, order + NRRD_TYPES[fields["type"]], fields["sizes"])


def shaped(content, dtype, sizes):
    size = [int(number) for number in sizes.split()]
    return np.frombuffer(content, dtype, count=int(np.prod(size))).reshape(size, order="F")


def by_pillow(file):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(file) as image:
            frames = [np.array(frame) for frame in ImageSequence.Iterator(image)]
    return np.stack(frames)


def by_pydicom(folder, uid):
    """The planes of a series in the order of their positions, as (x, y, z)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        slices = [pydicom.dcmread(file) for file in folder.iterdir()]
        slices = [one for one in slices if uid in (None, one.SeriesInstanceUID)]
        slices.sort(key=lambda one: one.ImagePositionPatient[2])
        return np.stack([one.pixel_array for one in slices]).T


# the batches


class Format(NamedTuple):
    """How files of a format are made and understood.

    Args:
        suffix: of the file.
        array: from a number to voxels.
        write: from a file and voxels to the sound file.
        understand: from a damaged file to its voxels; None where checksums guard all that matters.
        order: of the voxels in the file, "F" where the first axis runs fastest.
        count: of files.
        dims: of the bundle that takes them.
    """

    suffix: str
    array: Callable = sound
    write: Callable = write_volume
    understand: Callable | None = None
    order: str = "F"
    count: int = 40
    dims: int = 3


FORMATS = {
    "nii": Format(".nii", understand=by_nibabel, count=60),
    "nii.gz": Format(".nii.gz", count=80),
    "mha": Format(".mha", understand=by_fields_of_metaimage),
    "mha, packed": Format(".mha", write=write_packed, understand=by_fields_of_metaimage),
    "mhd": Format(".mhd", understand=by_fields_of_metaimage),
    "nrrd": Format(".nrrd", understand=by_fields_of_nrrd),
    "nrrd, packed": Format(".nrrd", write=write_packed, understand=by_fields_of_nrrd),
    "tif": Format(".tif", picture, tiff, by_pillow, order="C", dims=2),
    "tif, packed": Format(".tif", picture, write_packed_tiff, by_pillow, order="C", dims=2),
    "tif, pages": Format(".tif", pages, tiff, by_pillow, order="C"),
    "png": Format(".png", picture, write_png, order="C", dims=2),
}


class Damaged:
    """A file that is written sound and then damaged."""

    def __init__(self, form, file, array):
        self.form, self.file, self.array = form, file, array
        form.write(file, array)
        self.voxels = file.with_suffix(".raw") if form.suffix == ".mhd" else file
        self.place = self.voxels.read_bytes().find(array.tobytes(form.order))  # -1 where they are packed

    def damage(self, chance):
        part = self.voxels if chance.random() < 0.3 else self.file
        part.write_bytes(damaged(part.read_bytes(), chance))

    def readings(self):
        """The voxels that may rightly be read from the file as it is now."""
        lying = self.voxels.read_bytes()[self.place :][: self.array.nbytes]
        if self.place < 0:
            yield self.array  # packed ones have a checksum
        elif len(lying) == self.array.nbytes:
            yield np.frombuffer(lying, self.array.dtype).reshape(self.array.shape, order=self.form.order)
        if self.form.understand is not None:
            with suppress(Exception):  # whatever another reader says of a damaged file
                yield self.form.understand(self.file)


@pytest.fixture
def predict(threshold, tmp_path):
    """Return `predict(dims)`, which predicts `in` in a child of little memory; it gives the rows of the summary."""

    def run(dims):
        arguments = [threshold[dims], tmp_path / "in", tmp_path / "out"]
        child = BatchProcess(arguments, tmp_path / "log", LittleMemory(GIBIBYTE))
        assert child.status() == 1, (tmp_path / "log").read_text()
        return json.loads((tmp_path / "out" / "summary.json").read_text())

    return run


def check_failure(row, file):
    for word in (f"case '{row['case']}'", f"file '{file}", "Remedy: "):
        assert word in row["reason"]
    assert "memory" not in row["reason"]


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(name, predict, tmp_path):
    form, chance = FORMATS[name], random.Random(name)
    (tmp_path / "in").mkdir()
    names = [f"{number:02d}" for number in range(form.count)]
    files = [Damaged(form, tmp_path / "in" / f"{n}{form.suffix}", form.array(i)) for i, n in enumerate(names)]
    for file in files[2:]:  # two stay sound
        file.damage(chance)
    rows = predict(form.dims)
    assert [row["case"] for row in rows] == names
    assert [row["status"] for row in rows[:2]] == ["done", "done"]
    assert sum(row["status"] == "failed" for row in rows) > form.count // 4
    for row, file in zip(rows, files, strict=True):
        if row["status"] == "failed":
            check_failure(row, tmp_path / "in")
        else:
            result = np.squeeze(stored(tmp_path / "out" / row["outputs"][0]))
            assert any(np.array_equal(result, np.squeeze(right) > 0) for right in file.readings()), row["case"]


def test_damaged_slices_of_dicom_series(predict, tmp_path):
    chance = random.Random("dicom")
    arrays = {f"{number:02d}": voxels(number)[..., :4] for number in range(40)}
    for number, (name, array) in enumerate(arrays.items()):
        dicom_series(tmp_path / "in" / name, array, SeriesInstanceUID=f"1.2.{number + 1}")
        if number > 1:  # two stay sound
            file = tmp_path / "in" / name / f"{chance.randrange(4):03d}.dcm"
            file.write_bytes(damaged(file.read_bytes(), chance))
    rows = predict(3)
    assert {row["case"].split("/")[0] for row in rows} == arrays.keys()
    assert [row["status"] for row in rows[:2]] == ["done", "done"]
    assert sum(row["status"] == "failed" for row in rows) > 10
    for row in rows:
        name, _, uid = row["case"].partition("/")
        if row["status"] == "failed":
            check_failure(row, tmp_path / "in" / name)
            continue
        result = stored(tmp_path / "out" / row["outputs"][0])
        if not np.array_equal(result, arrays[name] > 0):
            np.testing.assert_array_equal(result, by_pydicom(tmp_path / "in" / name, uid or None) > 0)
