"""The intensities of the training cases' foreground, against those that were written into the files."""

import nibabel as nib
import numpy as np
import pytest

from pipeline.datalists import foreground
from pipeline.datalists.datalist import parse_data_list
from pipeline.datalists.foreground import foreground_intensities
from pipeline.errors import InputError

SHAPE = (10, 10, 4)


def write(folder, inside, channels=1):
    """A case for each sequence of foreground voxels, in air of -1000; the last one validates."""
    cases = []
    for number, values in enumerate(inside):
        label, image = np.zeros(SHAPE, np.uint8), np.full(SHAPE, -1000, np.int16)
        label.flat[: len(values)] = 1 + np.arange(len(values)) % 2
        image.flat[: len(values)] = values
        names = [f"image_{number}_{channel}.nii.gz" for channel in range(channels)]
        for channel, name in enumerate(names):
            nib.save(nib.Nifti1Image(image + np.int16(channel), np.eye(4)), folder / name)
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / f"label_{number}.nii.gz")
        place = int(number == len(inside) - 1)
        image_entry = names if channels > 1 else names[0]
        cases.append({"id": str(number), "image": image_entry, "label": f"label_{number}.nii.gz", "fold": place})
    told = {"name": "ct", "description": "", "licence": "CC0-1.0", "source": "tests", "made_by": "tests"}
    told |= {"spatial_dims": 3, "label_kind": "classes", "classes": ["background", "a", "b"]}
    return parse_data_list({**told, "channels": ["ct", "late"][:channels], "cases": cases})


def test_only_the_foreground_of_training_cases_counts(tmp_path):
    cases = write(tmp_path, [range(0, 101), range(101, 201), [5000, 6000]])  # 0..200 together; the last one validates
    found = foreground_intensities(cases, tmp_path, fold=1)
    # Of 0, 1, ..., 200 the p-th percentile is 2 p, the mean 100, and the variance (201^2 - 1) / 12 = 3366.67.
    assert found == pytest.approx({"low": 1, "high": 199, "mean": 100, "std": (40400 / 12) ** 0.5})
    assert foreground_intensities(cases, tmp_path, fold=0)["mean"] == 5500


def test_the_percentiles_can_be_chosen(tmp_path):
    cases = write(tmp_path, [range(0, 101), [0]])
    found = foreground_intensities(cases, tmp_path, fold=1, lower=10, upper=75)
    assert (found["low"], found["high"]) == (10, 75)


def test_channels_count_together(tmp_path):
    found = foreground_intensities(write(tmp_path, [[10, 20], [0]], channels=2), tmp_path, fold=1)  # 10, 20, 11, 21
    assert found["mean"] == 15.5


def test_a_large_case_counts_by_every_nth_voxel(tmp_path, monkeypatch):
    monkeypatch.setattr(foreground, "MOST_VOXELS", 50)
    found = foreground_intensities(write(tmp_path, [range(101), [0]]), tmp_path, fold=1)  # 0, 3, ..., 99
    assert found["mean"] == 49.5


@pytest.mark.parametrize(("inside", "words"), [([], "no voxel"), ([7, 7], "one intensity")])
def test_a_foreground_that_has_no_window_is_an_error(tmp_path, inside, words):
    with pytest.raises(InputError, match=f"the foreground of the training cases has {words}"):
        foreground_intensities(write(tmp_path, [inside, [0]]), tmp_path, fold=1)
