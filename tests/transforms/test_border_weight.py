from math import exp

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, MetaTensor
from scipy import ndimage

from pipeline.errors import InputError
from pipeline.transforms.border_weight import BorderWeightd, border_weight_map, class_weight_map


def naive(instances, w0=10.0, sigma=5.0, spacing=None):
    """The formula as it stands: one distance transform of the whole image for each cell, sorted."""
    ids = np.unique(instances[instances != 0])
    if len(ids) < 2:
        return np.zeros(instances.shape)
    distances = np.sort([ndimage.distance_transform_edt(instances != i, sampling=spacing) for i in ids], axis=0)
    return np.where(instances == 0, w0 * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma**2)), 0)


def random_cells(shape, count, seed=0):
    random = np.random.default_rng(seed)
    instances = np.zeros(shape, np.int32)
    for number in range(1, count + 1):
        corner = [int(random.integers(0, n)) for n in shape]
        instances[tuple(slice(c, c + int(random.integers(1, 9))) for c in corner)] = 3 * number
    return instances


def test_two_cells_by_hand():
    # Columns 1 and 3 lie 1 and 3, then 3 and 1 px from the two cells; column 2 lies 2 and 2: the sum is always 4.
    weight = border_weight_map(np.array([[1, 0, 0, 0, 2]]))
    gap = 10 * exp(-(4**2) / (2 * 5**2))
    assert weight.dtype == np.float32
    assert weight[0].tolist() == pytest.approx([0, gap, gap, gap, 0], rel=1e-6)
    wide = border_weight_map(np.array([[1, 0, 2]]), w0=3.0, sigma=2.0)
    assert wide[0, 1] == pytest.approx(3 * exp(-(2**2) / (2 * 2**2)), rel=1e-6)


@pytest.mark.parametrize(("shape", "count"), [((61, 74), 25), ((130, 90), 4), ((24, 31, 19), 12)])
@pytest.mark.parametrize(("w0", "sigma"), [(10.0, 5.0), (2.0, 1.5)])
def test_equals_the_naive_stack(shape, count, w0, sigma):
    instances = random_cells(shape, count)
    np.testing.assert_allclose(border_weight_map(instances, w0, sigma), naive(instances, w0, sigma), rtol=0, atol=1e-5)


def test_spacing_stretches_the_distances():
    instances = random_cells((12, 40, 40), 10)
    spacing = (4.0, 1.0, 0.5)
    weight = border_weight_map(instances, 10.0, 5.0, spacing)
    np.testing.assert_allclose(weight, naive(instances, spacing=spacing), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "instances",
    [np.zeros((9, 9), int), np.full((9, 9), 4), np.eye(9, dtype=int), np.array([[1, 1, 2, 2]])],
    ids=["none", "only one, no background", "one", "no background between"],
)
def test_without_a_gap_between_two_cells_there_is_no_weight(instances):
    assert not border_weight_map(instances).any()


def test_ids_do_not_matter_and_w0_of_zero_is_nothing():
    instances = random_cells((30, 30), 5)
    renamed = np.where(instances > 0, 2**40 + instances.astype(np.int64), 0)
    assert np.array_equal(border_weight_map(renamed), border_weight_map(instances))
    assert not border_weight_map(instances, w0=0.0).any()


def test_class_weights():
    instances = np.array([[0, 0, 0, 7]])
    # 4 pixels, 2 classes: background 4 / (2 * 3), cell 4 / (2 * 1); the mean over the pixels is 1.
    balanced = class_weight_map(instances)
    assert balanced[0].tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
    assert balanced.mean() == pytest.approx(1)
    assert class_weight_map(instances, [0.5, 3.0])[0].tolist() == [0.5, 0.5, 0.5, 3.0]
    for only_one in (np.zeros((3, 3), int), np.ones((3, 3), int)):
        assert np.all(class_weight_map(only_one) == 1)
    assert np.all(class_weight_map(instances, None) == 1)


def test_transform_adds_class_and_border_weight():
    instances = torch.tensor([[[1, 0, 2, 0]]], dtype=torch.int32)
    label = MetaTensor(instances, affine=torch.eye(4) * 2)
    result = BorderWeightd("label", w0=10.0, sigma=5.0)({"label": label, "other": 1})
    weight = result["weight"]
    near, far = 10 * exp(-(2**2) / 50), 10 * exp(-((1 + 3) ** 2) / 50)
    assert weight.shape == (1, 1, 4)
    assert weight.dtype == torch.float32
    assert weight.flatten().tolist() == pytest.approx([1, 1 + near, 1, 1 + far])
    assert torch.equal(weight.affine, label.affine)
    assert result["label"] is label
    assert result["other"] == 1


def test_touching_cells_get_their_gap_first():
    instances = np.array([[[1, 1, 1, 2, 2]]])
    weight = BorderWeightd("label", class_weights=None, gap=1)({"label": instances})["weight"]
    # The larger cell gives way in column 2, which then lies 1 px from both: the sum is 2.
    assert weight[0, 0].tolist() == pytest.approx([1, 1, 1 + 10 * exp(-(2**2) / 50), 1, 1])
    without = BorderWeightd("label", class_weights=None)({"label": instances})["weight"]
    assert without[0, 0].tolist() == [1] * 5


def test_cells_of_a_class_map_are_what_hangs_together_by_faces():
    cells = np.array([[[1, 0, 2, 2, 0], [0, 1, 0, 0, 0]]])
    weight = BorderWeightd("label", class_weights=None, label_kind="classes", gap=1)({"label": cells})["weight"]
    ids = np.array([[1, 0, 2, 2, 0], [0, 3, 0, 0, 0]])  # touching at a corner is not touching, and makes no gap
    np.testing.assert_allclose(weight[0], 1 + naive(ids), rtol=1e-6)


def test_transform_is_cached():
    items = [{"label": torch.from_numpy(random_cells((1, 20, 20), 3, seed))} for seed in range(2)]
    cached = CacheDataset(items, BorderWeightd("label"), progress=False, num_workers=None)
    for item, data in zip(cached, items, strict=True):
        assert type(item["weight"]) is torch.Tensor
        assert torch.equal(item["weight"], BorderWeightd("label")(data)["weight"])


@pytest.mark.parametrize(
    "options",
    [
        {"class_weights": "equal"},
        {"class_weights": [1.0, 2.0, 3.0]},
        {"sigma": 0.0},
        {"label_kind": "mask"},
        {"gap": -1},
    ],
)
def test_wrong_options_are_input_errors(options):
    with pytest.raises(InputError, match=next(iter(options))):
        BorderWeightd("label", **options)
