"""Small data sets of four cases, and how a test spoils their files."""

import gzip
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from pipeline.datalists.check import check_cases
from pipeline.datalists.datalist import Case, DataList
from pipeline.errors import InputError

NAMES = "abcd"  # a and b validate, c trains, d tests
GRID = np.diag([1.0, 1, 2, 1])


def picture(seed, shape=(6, 8)):
    return np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)


def scan(seed):
    return picture(seed, (4, 5, 6)).astype(np.int16)


def mask(seed):
    return picture(seed, (4, 5, 6)) % 2


def write(path, array, affine=GRID):
    path.parent.mkdir(exist_ok=True)
    if path.suffix in (".png", ".bmp"):
        Image.fromarray(array).save(path)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, array, photometric="minisblack")
    elif path.suffix in (".mha", ".nrrd"):
        image = sitk.GetImageFromArray(array.T)
        image.SetSpacing(np.diag(affine)[:3].tolist())
        image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])  # LPS: as `affine` says in RAS
        sitk.WriteImage(image, str(path), True)
    else:
        nib.save(nib.Nifti1Image(array, affine, dtype=array.dtype), path)
    return path


def nifti_fields(path, array=None, **fields):
    """Write a packed NIfTI file, or take the one that is there, and set fields in the bytes of its header."""
    if array is not None:
        write(path, array)
    raw = bytearray(gzip.decompress(path.read_bytes()))
    header = np.frombuffer(raw, nib.Nifti1Header().structarr.dtype, count=1)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(gzip.compress(bytes(raw)))


def flat_list(suffix="png", **changes):
    folds = [0, 0, 1, None]
    cases = [
        Case(n, f"images/{n}.{suffix}", f"labels/{n}.{suffix}", fold=fold, split=None if fold is not None else "test")
        for n, fold in zip(NAMES, folds, strict=True)
    ]
    plain = DataList("toy", "", "", "", "", 2, "classes", ("background", "cell"), ("intensity",), tuple(cases))
    return replace(plain, **changes)


def solid_list(**changes):
    return flat_list("nii.gz", **{"spatial_dims": 3, **changes})


def with_case(listed, number, **changes):
    cases = list(listed.cases)
    cases[number] = replace(cases[number], **changes)
    return replace(listed, cases=tuple(cases))


def make_flat(folder):
    """Four 2D cases."""
    for seed, name in enumerate(NAMES):
        write(folder / "images" / f"{name}.png", picture(seed))
        write(folder / "labels" / f"{name}.png", picture(seed + 10) % 2)
    return folder


def make_solid(folder):
    """Four 3D cases."""
    for seed, name in enumerate(NAMES):
        write(folder / "images" / f"{name}.nii.gz", scan(seed))
        write(folder / "labels" / f"{name}.nii.gz", mask(seed + 10))
    return folder


def message(listed, top, **options):
    with pytest.raises(InputError) as caught:
        check_cases(listed, top, progress=False, **options)
    return str(caught.value)
