import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from pipeline.errors import InputError
from pipeline.transforms.instances_to_mask import InstancesToMaskd, separate_instances


def touching_blobs(shape, count=12, seed=0):
    """Voronoi cells of random points, cut at a radius: many touch without a gap."""
    random = np.random.default_rng(seed)
    seeds = np.zeros(shape, np.int64)
    seeds[tuple(random.integers(0, n, count) for n in shape)] = 1 + random.permutation(count)
    distance, nearest = ndimage.distance_transform_edt(seeds == 0, return_indices=True)
    return np.where(distance < min(shape) / 4, seeds[tuple(nearest)], 0)


def nearest_other(instances):
    """The smallest Chebyshev distance between two instances."""
    ids = np.unique(instances[instances > 0])
    return min(
        ndimage.distance_transform_cdt(instances != a, "chessboard")[(instances > 0) & (instances != a)].min()
        for a in ids
    )


def test_the_larger_of_two_touching_cells_gives_way():
    instances = np.array([
        [1, 1, 1, 2, 2, 0],
        [1, 1, 1, 2, 2, 0],
        [1, 1, 1, 0, 0, 0],
    ])  # fmt: skip
    separated = np.array([
        [1, 1, 0, 2, 2, 0],
        [1, 1, 0, 2, 2, 0],
        [1, 1, 0, 0, 0, 0],
    ])  # fmt: skip
    before = instances.copy()
    assert np.array_equal(separate_instances(instances), separated)
    assert np.array_equal(instances, before)
    assert np.array_equal(separate_instances(instances[:, ::-1]), separated[:, ::-1])
    swapped = np.choose(instances, [0, 9, 4])  # the ids do not matter
    assert np.array_equal(separate_instances(swapped), np.choose(separated, [0, 9, 4]))


def test_of_equal_cells_the_larger_id_gives_way_and_corners_count_as_touching():
    assert np.array_equal(separate_instances(np.array([[7, 7, 3, 3]])), [[7, 0, 3, 3]])
    assert np.array_equal(separate_instances(np.array([[1, 0], [0, 2]])), [[1, 0], [0, 0]])


def test_a_gap_that_is_there_is_kept_and_widened_only_as_needed():
    instances = np.array([[1, 1, 1, 0, 2, 2, 2, 2]])
    assert np.array_equal(separate_instances(instances), instances)
    assert np.array_equal(separate_instances(instances, gap=2), [[1, 1, 1, 0, 0, 2, 2, 2]])


@pytest.mark.parametrize("shape", [(40, 51), (20, 17, 23)])
@pytest.mark.parametrize("gap", [1, 2])
def test_every_two_instances_end_apart(shape, gap):
    instances = touching_blobs(shape)
    assert nearest_other(instances) == 1
    separated = separate_instances(instances, gap)
    assert nearest_other(separated) == gap + 1
    kept = separated > 0
    assert np.array_equal(separated[kept], instances[kept])
    # Pixels farther than `gap` from every other instance are untouched.
    for a in np.unique(instances[instances > 0]):
        others = ndimage.distance_transform_cdt(~((instances > 0) & (instances != a)), "chessboard")
        assert np.all(separated[(instances == a) & (others > gap)] == a)


@pytest.mark.parametrize("instances", [np.zeros((4, 4), int), np.full((4, 4), 5), np.eye(4, dtype=int) * 3])
def test_empty_full_and_single(instances):
    assert np.array_equal(separate_instances(instances), instances)


def test_large_ids_stay_exact():
    instances = np.array([[2**40 + 1, 2**40 + 1, 0, 2**40 + 2]])
    assert np.array_equal(separate_instances(instances), instances)


def test_mask_keeps_meta_data():
    ids = torch.tensor([[[1, 1, 1, 2, 2]]], dtype=torch.int32)
    label = MetaTensor(ids, affine=torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0])), meta={"filename_or_obj": "a.tif"})
    data = {"label": label, "other": 3}
    result = InstancesToMaskd("label")(data)
    assert result["label"].dtype == torch.uint8
    assert result["label"].tolist() == [[[1, 1, 0, 1, 1]]]
    assert isinstance(result["label"], MetaTensor)
    assert result["label"].meta["filename_or_obj"] == "a.tif"
    assert torch.equal(result["label"].affine, label.affine)
    assert data["label"] is label
    assert result["other"] == 3


def test_gap_zero_is_the_plain_mask_of_any_container():
    ids = np.array([[[1.0, 2.0, 0.0]]], np.float32)
    for value in (ids, torch.from_numpy(ids)):
        result = InstancesToMaskd("label", gap=0)({"label": value})
        assert type(result["label"]) is type(value)
        assert result["label"].tolist() == [[[1, 1, 0]]]
        assert set(result) == {"label"}


def test_negative_gap_is_an_input_error():
    with pytest.raises(InputError, match="gap is -1"):
        InstancesToMaskd("label", gap=-1)
