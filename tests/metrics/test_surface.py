from math import hypot, inf, nan

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist, directed_hausdorff
from two_cells import draw

from pipeline.metrics.surface import (
    SurfaceDistances,
    average_surface_distance,
    hd95,
    surface_dice,
    surface_distances,
    surface_distances_by_class,
)

TRUTH = draw("""
    .......
    .11....
    .11....
    .....22
    .....22
    .......
""")
EMPTY = np.zeros_like(TRUTH)


def shifted(truth, by, axis):
    return np.roll(truth, by, axis)


def test_by_hand_in_two_dimensions():
    # 1 moves two columns to the right: its left column has 2 to go to the nearest of the other, its right column 1.
    # 2 stays. All voxels of a 2 x 2 square lie on its surface.
    prediction = np.where(TRUTH == 1, 0, TRUTH) + (shifted(TRUTH, 2, axis=1) == 1)
    found = surface_distances(TRUTH == 1, prediction == 1)
    assert sorted(found.from_truth) == sorted(found.from_prediction) == [1, 1, 2, 2]
    np.testing.assert_allclose(average_surface_distance(TRUTH, prediction, 3), [nan, 1.5, 0])
    np.testing.assert_allclose(surface_dice(TRUTH, prediction, 3, tolerance=1), [nan, 0.5, 1])
    # The 95th percentile of 1, 1, 2, 2 lies at 0.95 * 3 = 2.85 on the way from the first to the fourth: it is 2.
    np.testing.assert_allclose(hd95(TRUTH, prediction, 3), [nan, 2, 0])


def test_spacing_is_that_of_each_axis():
    prediction = shifted(shifted(TRUTH, 3, axis=1), 2, axis=0) == 1
    # From (1, 1) to (3, 4), from (1, 2) to (3, 4), from (2, 1) to (3, 4), from (2, 2) to (3, 4)
    expected = [hypot(2 * 0.5, 3 * 4), hypot(2 * 0.5, 2 * 4), hypot(0.5, 3 * 4), hypot(0.5, 2 * 4)]
    found = surface_distances(TRUTH == 1, prediction, (0.5, 4))
    assert sorted(found.from_truth) == pytest.approx(sorted(expected))
    assert found.hausdorff(100) == pytest.approx(expected[0])
    assert found.average() == pytest.approx(np.mean(expected))


def test_the_inside_is_no_surface_and_the_rim_of_the_image_is():
    full = np.ones((5, 4), bool)
    hole = full.copy()
    hole[2, 1:3] = False
    # 14 voxels on the rim; those of `hole` besides: 2 above and 2 below the hole. All of them are 1 from the rim.
    found = surface_distances(full, hole)
    assert len(found.from_truth) == 14
    assert sorted(found.from_prediction) == [0] * 14 + [1] * 4
    ball = np.zeros((7, 7, 7), bool)
    ball[1:6, 1:6, 1:6] = True
    assert len(surface_distances(ball, ball).from_truth) == 5**3 - 3**3


def test_the_larger_of_the_two_percentiles_counts():
    # A line of 40, and its first 20: 0 from the prediction, 1 to 20 from the truth's other half.
    truth, prediction = np.ones((2, 1, 40), int)
    prediction[:, 20:] = 0
    distances = [0] * 20 + list(range(1, 21))
    assert hd95(truth, prediction, 2)[1] == pytest.approx(np.percentile(distances, 95))
    assert hd95(prediction, truth, 2)[1] == pytest.approx(np.percentile(distances, 95))
    assert average_surface_distance(truth, prediction, 2)[1] == pytest.approx(sum(distances) / 60)
    assert surface_dice(truth, prediction, 2, 5.0)[1] == pytest.approx((20 + 20 + 5) / 60)


# From each voxel of one square to the nearest of the other
FAR = [hypot(1, 3), hypot(1, 4), hypot(2, 3), hypot(2, 4)]
HERE, NOWHERE = [0] * 4, [inf] * 4
# From each voxel of a square to the nearest of the square one row below or above: two coincide, two are 1 away.
BESIDE = [0, 0, 1, 1]

# name: truth, prediction, distances of class 1 and of class 2: (from the truth, from the prediction)
PAIRS = {
    "identical": (TRUTH, TRUTH, (HERE, HERE), (HERE, HERE)),
    "classes exchanged": (TRUTH, np.array([0, 2, 1])[TRUTH], (FAR, FAR), (FAR, FAR)),
    "shifted": (TRUTH, shifted(TRUTH, 1, axis=0), (BESIDE, BESIDE), (BESIDE, BESIDE)),
    "merged into class 1": (TRUTH, (TRUTH > 0).astype(int), (HERE, HERE + FAR), (NOWHERE, [])),
    "split off class 1": ((TRUTH > 0).astype(int), TRUTH, (HERE + FAR, HERE), ([], NOWHERE)),
    "prediction empty": (TRUTH, EMPTY, (NOWHERE, []), (NOWHERE, [])),
    "truth empty": (EMPTY, TRUTH, ([], NOWHERE), ([], NOWHERE)),
    "both empty": (EMPTY, EMPTY, ([], []), ([], [])),
}


def scores(from_truth, from_prediction):
    """HD95, average distance and surface dice at a tolerance of 1, of distances that are known."""
    if not from_truth:
        return nan, nan, nan
    if not from_prediction:
        return inf, inf, 0
    both = from_truth + from_prediction
    far = max(np.percentile(from_truth, 95), np.percentile(from_prediction, 95))
    return far, sum(both) / len(both), sum(distance <= 1 for distance in both) / len(both)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("slices", [None, 2])
def test_named_pairs(name, slices):
    truth, prediction, *distances = PAIRS[name]
    if slices:  # of two slices every voxel is on the surface
        truth, prediction = np.stack([truth] * slices), np.stack([prediction] * slices)
        distances = [(slices * of_truth, slices * of_prediction) for of_truth, of_prediction in distances]
    far, average, share = zip((nan, nan, nan), *(scores(*pair) for pair in distances), strict=True)
    np.testing.assert_allclose(hd95(truth, prediction, 3), far)
    np.testing.assert_allclose(average_surface_distance(truth, prediction, 3), average)
    np.testing.assert_allclose(surface_dice(truth, prediction, 3, 1.0), share)


def test_scores_of_distances_by_hand():
    distances = SurfaceDistances(np.array([0.0, 1.0, 4.0]), np.array([2.0]))
    assert distances.hausdorff(100) == 4
    assert distances.hausdorff(50) == 2
    assert distances.average() == 7 / 4
    assert distances.dice(1) == 2 / 4
    assert distances.dice(4) == 1


def test_a_tolerance_for_each_class():
    prediction = shifted(TRUTH, 1, axis=0)
    # Of each square's four voxels the two in the row that is left behind are 1 away, both ways.
    np.testing.assert_allclose(surface_dice(TRUTH, prediction, 3, [0, 0.5, 1]), [nan, 0.5, 1])


def blobs(seed, shape):
    random = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(random.normal(size=shape), 3)
    return smooth > np.percentile(smooth, 60)


@pytest.mark.parametrize(("shape", "spacing"), [((40, 52), (0.7, 1.9)), ((18, 24, 30), (3.0, 0.8, 1.1))])
def test_against_all_pairs_of_voxels(shape, spacing):
    truth, prediction = blobs(0, shape), blobs(1, shape)
    surfaces = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) * spacing for mask in (truth, prediction)]
    distances = cdist(*surfaces)
    found = surface_distances(truth, prediction, spacing)
    np.testing.assert_allclose(found.from_truth, distances.min(axis=1))
    np.testing.assert_allclose(found.from_prediction, distances.min(axis=0))
    assert found.hausdorff(100) == pytest.approx(
        max(directed_hausdorff(*surfaces)[0], directed_hausdorff(*surfaces[::-1])[0])
    )


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI calls its own function so
@pytest.mark.parametrize(("shape", "spacing"), [((60, 70), (0.7, 1.9)), ((18, 24, 30), (3.0, 0.8, 1.1))])
def test_against_monai(shape, spacing):
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_dice import compute_surface_dice
    from monai.metrics.surface_distance import compute_average_surface_distance

    truth, prediction = (blobs(seed, shape) + 2 * (blobs(seed + 10, shape) & ~blobs(seed, shape)) for seed in (2, 3))
    one_hot = [torch.from_numpy(np.stack([labels == k for k in range(3)])[None]) for labels in (prediction, truth)]
    np.testing.assert_allclose(
        hd95(truth, prediction, 3, spacing)[1:],
        compute_hausdorff_distance(*one_hot, percentile=95, spacing=spacing)[0],
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        average_surface_distance(truth, prediction, 3, spacing)[1:],
        compute_average_surface_distance(*one_hot, symmetric=True, spacing=spacing)[0],
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        surface_dice(truth, prediction, 3, [0, 1.5, 2.5], spacing)[1:],
        compute_surface_dice(*one_hot, class_thresholds=[1.5, 2.5], spacing=spacing)[0],
        rtol=1e-5,
    )


def test_the_background_is_not_measured():
    assert len(surface_distances_by_class(TRUTH, TRUTH, 3)) == 2
    assert np.isnan(hd95(TRUTH, TRUTH, 1)).tolist() == [True]


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 1.0, 1.0), (1.0, 0.0), (1.0, nan)])
def test_wrong_spacing_is_refused(spacing):
    with pytest.raises(ValueError, match="one positive number for each of the 2 axes"):
        hd95(TRUTH, TRUTH, 3, spacing)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"truth has shape \(6, 7\), the prediction \(7, 6\)"):
        surface_distances(TRUTH, TRUTH.T)
