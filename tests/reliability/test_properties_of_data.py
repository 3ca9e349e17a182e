"""Of any list no case and no group is lost or divided; any volume is read as it was written, or refused."""

from collections import Counter

import nibabel as nib
import numpy as np
import pytest
from examples import examples
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.datalists.datalist import Case, DataList, assign_folds, load_data_list, save_data_list
from pipeline.errors import InputError
from pipeline.volumes.reading import read_volume
from pipeline.volumes.writing import write_label_map, write_volume


def refusal_of(write, *args, **options):
    """What a function of ours refuses, or None."""
    try:
        write(*args, **options)
    except InputError as error:
        return error
    return None


# folds

IDS = st.lists(st.text("abcdef01", min_size=1, max_size=4), min_size=1, max_size=40, unique=True)


@examples(100)
@given(IDS, st.data(), st.integers(0, 12), st.integers(0, 2**32))
def test_folds_place_every_case_and_divide_no_group(ids, data, n_folds, seed):
    groups = data.draw(
        st.lists(st.none() | st.sampled_from([*"abcde", *ids[:3]]), min_size=len(ids), max_size=len(ids))
    )
    members = Counter(
        ("group", group) if group is not None else ("case", case) for case, group in zip(ids, groups, strict=True)
    )
    if not 2 <= n_folds <= len(members):
        with pytest.raises(InputError, match="cannot fill"):
            assign_folds(ids, groups, n_folds, seed)
        return
    folds = assign_folds(ids, groups, n_folds, seed)
    assert list(folds) == ids
    assert set(folds.values()) == set(range(n_folds))
    of_group = {}
    for case, group in zip(ids, groups, strict=True):
        if group is not None:
            assert of_group.setdefault(group, folds[case]) == folds[case]
    sizes = Counter(folds.values())
    assert max(sizes.values()) - min(sizes.values()) <= max(members.values())
    order = data.draw(st.permutations(range(len(ids))))
    again = assign_folds([ids[place] for place in order], [groups[place] for place in order], n_folds, seed)
    assert again == folds


@examples(30)
@given(IDS, st.data(), st.integers(2, 6))
def test_a_list_of_folds_splits_its_cases_and_is_saved_as_it_is(fresh_folder, ids, data, n_folds):
    groups = data.draw(st.lists(st.none() | st.sampled_from("abc"), min_size=len(ids), max_size=len(ids)))
    assume(n_folds <= len({group or (case,) for case, group in zip(ids, groups, strict=True)}))
    folds = assign_folds(ids, groups, n_folds, 0)
    described = dict.fromkeys(("name", "description", "licence", "source", "made_by"), "tests")
    cases = [
        Case(case, f"{case}.png", f"l/{case}.png", group, folds[case]) for case, group in zip(ids, groups, strict=True)
    ]
    made = DataList(
        **described, spatial_dims=2, label_kind="classes", classes=("0", "1"), channels=("a",), cases=tuple(cases)
    )
    file = fresh_folder() / "list.json"
    save_data_list(made, file)
    assert load_data_list(file) == made
    seen = Counter()
    for fold in made.folds:
        training, validation = (
            {case.id: case.group for case in made.select(split, fold)} for split in ("training", "validation")
        )
        assert {*training, *validation} == set(ids)
        assert not training.keys() & validation.keys()
        assert not {*training.values()} & {*validation.values()} - {None}
        seen.update(validation.keys())
    assert seen == Counter(ids)


# label maps and volumes on disk

SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".tif", ".png")
PLACED = SUFFIXES[:5]
LABELS = [np.bool_, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float16, np.float32, np.float64]


@st.composite
def affines(draw):
    """Axes of any length and order, turned by any angles, anywhere."""
    angles = [draw(st.floats(-3.1, 3.1)) for _ in range(3)]
    turn = np.eye(3)
    for (i, j), angle in zip(((0, 1), (0, 2), (1, 2)), angles, strict=True):
        step = np.eye(3)
        step[[i, j], [i, j]], step[i, j], step[j, i] = np.cos(angle), -np.sin(angle), np.sin(angle)
        turn = turn @ step
    affine = np.eye(4)
    affine[:3, :3] = turn[:, draw(st.permutations(range(3)))] * [
        draw(st.sampled_from([-1, 1])) * draw(st.floats(0.05, 20)) for _ in range(3)
    ]
    affine[:3, 3] = [draw(st.floats(-2000, 2000)) for _ in range(3)]
    return affine


@st.composite
def label_maps(draw):
    dtype = np.dtype(draw(st.sampled_from(LABELS)))
    shape = tuple(draw(hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=6)))
    most = {"b": 1, "f": 2 ** (np.finfo(dtype).nmant + 1) if dtype.kind == "f" else 0}.get(dtype.kind) or np.iinfo(
        dtype
    ).max
    least = draw(st.sampled_from([0, 0, 0, 0, -1])) if dtype.kind in "if" else 0
    values = st.integers(least, int(most)) | st.integers(0, 3)
    labels = np.array(draw(st.lists(values, min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))), object)
    if dtype.kind == "f" and draw(st.integers(0, 9)) == 0:
        labels[0] = draw(st.sampled_from([0.5, np.nan, np.inf]))
    return labels.astype(dtype).reshape(shape), draw(st.sampled_from("<>"))


@examples(150)
@given(label_maps(), st.sampled_from(SUFFIXES), affines())
def test_a_label_map_is_read_as_it_was_written_or_refused(fresh_folder, labels, suffix, affine):
    array, order = labels
    file = fresh_folder() / f"a{suffix}"
    whole = (
        array.dtype.kind != "f"
        or ((array == np.rint(array)) & (np.abs(array) < 2 ** (np.finfo(array.dtype).nmant + 1))).all()
    )
    fits = suffix != ".png" or (array.ndim == 2 and whole and array.max() < 2**16)
    array_of_order = array.astype(array.dtype.newbyteorder(order))
    error = refusal_of(write_label_map, file, array_of_order, affine if suffix in PLACED else None, case="c7")
    if error is not None:
        assert not (fits and whole and array.min() >= 0), error
        assert "case 'c7'" in str(error)
        assert error.file == str(file)
        assert not any(file.parent.iterdir())
        return
    assert fits
    assert whole
    assert array.min() >= 0
    if suffix == ".tif" and array.ndim == 3 and len(array) == 1:  # one page is a picture
        array = array[0]
    volume = read_volume(file, array.ndim, kind="label")
    np.testing.assert_array_equal(volume.array[0].astype(np.uint64), array.astype(np.uint64))
    assert volume.array.dtype == np.min_scalar_type(int(array.max()))
    if suffix in PLACED:
        # NIfTI keeps both forms in float32, of which the quaternion is the coarser.
        np.testing.assert_allclose(volume.affine, affine, rtol=1e-4, atol=1e-4 * np.abs(affine[:3]).max())


@examples(80)
@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]),
        hnp.array_shapes(min_dims=4, max_dims=4, min_side=1, max_side=4),
    ),
    st.sampled_from([".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".tif"]),
    affines(),
)
def test_a_volume_of_any_type_and_channels_is_read_as_it_was_written_or_refused(fresh_folder, array, suffix, affine):
    file = fresh_folder() / f"a{suffix}"
    error = refusal_of(write_volume, file, array, affine if suffix in PLACED else None)
    if error is not None:
        assert array.dtype.kind == "f", error
        assert not np.isfinite(array).all()
        return
    assume(suffix != ".tif" or array.shape[1] > 1)
    volume = read_volume(file, 3)
    np.testing.assert_array_equal(volume.array, array)
    assert volume.array.dtype == array.dtype
    if suffix in (".nii", ".nii.gz"):
        np.testing.assert_array_equal(np.asarray(nib.load(file).dataobj).squeeze(), np.moveaxis(array, 0, -1).squeeze())
