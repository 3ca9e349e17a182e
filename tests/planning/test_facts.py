"""What the rules see of a list: training and validation cases along the patient's axes, and nothing of the test."""

import pytest

from pipeline.datalists.datalist import Case, DataList
from pipeline.datalists.fingerprint import ClassVolume, Fingerprint, Intensities
from pipeline.errors import InputError
from pipeline.planning.facts import Machine, gather

MACHINE = Machine("cpu", 2, 8, 8)


def a_list(dims=3):
    cases = (
        Case("a", "a.nii", "la.nii", fold=0),
        Case("b", "b.nii", "lb.nii", fold=1),
        Case("c", "c.nii", "lc.nii", split="test"),
        Case("d", "d.nii", split="test"),
    )
    return DataList("x", "", "", "", "", dims, "classes", ("background", "organ"), ("MRI",), cases)


def seen(case, split, shape, spacing, axcodes, voxels=(6, 2), low=0.0, smallest=None):
    classes = tuple(ClassVolume(name, n, None) for name, n in zip(("background", "organ"), voxels, strict=True))
    channel = Intensities("MRI", low, low, low + 5, 99, 100, 50, 20)
    return Fingerprint(case, split, "NIfTI", "int16", shape, spacing, axcodes, (channel,), classes, None, smallest)


def test_axes_are_the_patients_whatever_the_files_say():
    found = gather(
        a_list(),
        [
            seen("a", "validation", (2, 4, 1), (1.0, 2.0, 3.0), "RAS"),
            seen("b", "training", (1, 4, 2), (3.0, 2.0, 1.0), "SPL"),
            seen("c", "test", (9, 9, 9), (9.0, 9.0, 9.0), "RAS"),
        ],
        MACHINE,
    )
    assert found.shapes == ((2, 4, 1), (2, 4, 1))
    assert found.spacings == ((1.0, 2.0, 3.0),) * 2
    assert (found.training, found.validation) == (1, 1)
    assert found.median_shape == (2, 4, 1)
    assert found.median_spacing == (1.0, 2.0, 3.0)


def test_test_cases_are_counted_and_not_looked_at():
    cases = [
        seen("a", "validation", (2, 4, 1), (1.0, 2.0, 3.0), "RAS"),
        seen("b", "training", (2, 4, 1), (1.0, 2.0, 3.0), "RAS", voxels=(4, 4), low=2.0),
    ]
    test = seen("c", "test", (90, 90, 90), (9.0, 9.0, 9.0), "RAS", voxels=(0, 729_000), low=-1000.0)
    found = gather(a_list(), [*cases, test], MACHINE)
    assert found == gather(a_list(), cases, MACHINE)
    assert found.test == 1  # one of the two has a label
    assert found.shares == (0.625, 0.375)  # the means of 6/8 and 4/8, of 2/8 and 4/8
    assert found.lows == ((0.0,), (2.0,))
    assert found.medians == ((5.0,), (7.0,))


def test_the_smallest_objects_of_the_cases_that_have_some():
    cases = [
        seen("a", "validation", (2, 4, 1), (1.0, 2.0, 3.0), "RAS", smallest=2),
        seen("b", "training", (2, 4, 1), (1.0, 2.0, 3.0), "RAS", voxels=(8, 0)),
        seen("c", "test", (2, 4, 1), (1.0, 2.0, 3.0), "RAS", smallest=1),
    ]
    assert gather(a_list(), cases, MACHINE).smallest == (2,)


def test_one_file_without_a_geometry_leaves_all_without():
    found = gather(
        a_list(),
        [
            seen("a", "validation", (2, 4, 1), (1.0, 2.0, 3.0), "SAR"),
            seen("b", "training", (1, 4, 2), None, None),
        ],
        MACHINE,
    )
    assert found.spacings is None
    assert found.median_spacing is None
    assert found.shapes == ((2, 4, 1), (1, 4, 2))


def test_a_list_of_which_no_training_case_can_be_read():
    with pytest.raises(InputError, match="no training case of 'x' could be read"):
        gather(a_list(), [seen("a", "validation", (2, 4, 1), (1.0, 2.0, 3.0), "RAS")], MACHINE)
