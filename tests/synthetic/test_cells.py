"""The made-up micrographs: exact labels, repeatable, and hard in the way that real fields are hard."""

import time

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import threshold_otsu

from pipeline.synthetic.cells import make_cells, smooth_noise

FIELDS = [make_cells([7, number]) for number in range(8)]


def dice(truth, prediction):
    return 2 * np.sum(truth & prediction) / (np.sum(truth) + np.sum(prediction))


def pairs_that_touch(instances):
    """Slow and plain: every pair of different labels in pixels side by side."""
    pairs = set()
    for a, b in ((instances[1:], instances[:-1]), (instances[:, 1:], instances[:, :-1])):
        met = (a != b) & (a > 0) & (b > 0)
        pairs |= {tuple(sorted(pair)) for pair in zip(a[met].tolist(), b[met].tolist(), strict=True)}
    return pairs


def test_a_field_is_a_function_of_its_seed_alone():
    first, again, other = make_cells(3), make_cells(3), make_cells(4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[1], other[1])


@pytest.mark.parametrize("field", FIELDS)
def test_image_and_instances_are_16_bit_with_a_dark_level_above_zero(field):
    image, instances = field
    assert image.dtype == instances.dtype == np.uint16
    assert image.shape == instances.shape == (256, 256)
    assert 200 < image.min() < 500
    assert 1000 < image.max() < 65535


@pytest.mark.parametrize("field", FIELDS)
def test_cells_are_numbered_without_a_gap_and_each_is_one_piece(field):
    instances = field[1]
    assert np.array_equal(np.unique(instances), np.arange(instances.max() + 1))
    assert 25 <= instances.max() <= 60
    for label in range(1, instances.max() + 1):
        assert ndimage.label(instances == label)[1] == 1
        assert np.sum(instances == label) >= 40


def test_most_cells_touch_another_without_a_gap():
    for _, instances in FIELDS:
        touching = {label for pair in pairs_that_touch(instances) for label in pair}
        assert len(touching) > 0.6 * instances.max()


def test_threshold_and_connected_components_merge_the_cells():
    for image, instances in FIELDS:
        components = ndimage.label(image > threshold_otsu(image))[0]
        sizes = np.bincount(components.ravel())[1:]
        assert np.sum(sizes >= 40) < 0.6 * instances.max()
        assert ndimage.label(instances > 0)[1] < 0.6 * instances.max()


def test_one_threshold_for_the_whole_field_is_a_poor_segmentation():
    scores = [dice(instances > 0, image > threshold_otsu(image)) for image, instances in FIELDS]
    assert max(scores) < 0.9
    assert np.mean(scores) < 0.85
    assert min(scores) > 0.4  # not a riddle either: the threshold still finds cells


def test_light_is_uneven_and_cells_are_brighter_than_what_surrounds_them():
    spans = []
    for image, instances in FIELDS:
        dark = np.where(instances == 0, image.astype(float), np.nan)
        quarters = [np.nanmedian(dark[y : y + 128, x : x + 128]) for y in (0, 128) for x in (0, 128)]
        spans.append((max(quarters) - 420) / (min(quarters) - 420))
        near = ndimage.binary_dilation(instances > 0, iterations=6) & (instances == 0)
        assert image[instances > 0].mean() > 1.2 * image[near].mean()
    assert np.mean(spans) > 1.4


def test_size_and_number_can_be_chosen():
    image, instances = make_cells(5, shape=(96, 160), n_cells=4)
    assert image.shape == instances.shape == (96, 160)
    assert 1 <= instances.max() <= 4
    assert make_cells(5, shape=(512, 512))[1].max() > 3 * 25


def test_fields_of_one_slide_share_the_light():
    """The dark fields of one slide agree once noise and cells are taken out; those of two slides do not."""

    def dark_field(seed, slide):
        image, instances = make_cells(seed, n_cells=12, slide=slide)
        empty = ~ndimage.binary_dilation(instances > 0, iterations=5)
        blocks = [(slice(y, y + 32), slice(x, x + 32)) for y in range(0, 256, 32) for x in range(0, 256, 32)]
        medians = [np.median(image[b][empty[b]]) if empty[b].sum() > 200 else np.nan for b in blocks]
        return np.array(medians)

    def agreement(a, b):
        known = np.isfinite(a) & np.isfinite(b)
        assert known.sum() > 10
        return np.corrcoef(a[known], b[known])[0, 1]

    same, other = (agreement(dark_field(1, 50), dark_field(2, slide)) for slide in (50, 51))
    assert same > 0.9
    assert other < 0.8


def test_smooth_noise_has_mean_zero_and_deviation_one():
    noise = smooth_noise(np.random.default_rng(0), (64, 64), 4)
    assert noise.mean() == pytest.approx(0, abs=1e-12)
    assert noise.std() == pytest.approx(1)
    assert np.abs(np.diff(noise, axis=0)).mean() < 0.3  # white noise: 1.13


def test_a_field_takes_less_than_a_third_of_a_second():
    seconds = []
    for number in range(3):
        start = time.process_time()
        make_cells(number)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.3
