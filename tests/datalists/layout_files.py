"""Small files of public layouts, and what the tests of their readers ask."""

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline.datalists.check import check_cases
from pipeline.datalists.datalist import load_data_list, save_data_list
from pipeline.errors import InputError


def noise(seed, *shape, dtype="u1"):
    """Values that no other seed gives."""
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape).astype(dtype)


def drawn(*rows):
    """Rows of digits as an array."""
    return np.array([[int(digit) for digit in row] for row in rows], np.uint8)


def png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def tif(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, photometric="minisblack")
    return path


def nifti(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 1, 2, 1])), path)
    return path


def pixels(path):
    """The pixels of a picture as another program reads them."""
    return tifffile.imread(path) if path.suffix == ".tif" else np.asarray(Image.open(path))


def images(listing):
    return {case.id: pixels(listing.dataset_dir / case.image) for case in listing.data_list.cases}


def labels(listing):
    return {case.id: pixels(listing.dataset_dir / case.label) for case in listing.data_list.cases if case.label}


def places(listing):
    return {case.id: case.place for case in listing.data_list.cases}


def reasons(listing):
    return sorted((file.name, reason) for file, reason in listing.left_out)


def check(listing, tmp_path):
    """The list survives its file, and its data the check before a training."""
    save_data_list(listing.data_list, tmp_path / "list.json")
    assert load_data_list(tmp_path / "list.json") == listing.data_list
    report = check_cases(listing.data_list, listing.dataset_dir)
    assert report.warnings == ()
    return report


def stamps(folder):
    """When each file was written."""
    return {file: file.lstat().st_mtime_ns for file in folder.rglob("*") if not file.is_dir()}


def refusal(list_layout, *arguments, **options):
    with pytest.raises(InputError) as caught:
        list_layout(*arguments, **options)
    return str(caught.value)
