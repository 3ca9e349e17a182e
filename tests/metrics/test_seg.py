import numpy as np
import pytest
import tifffile
from two_cells import draw, stack

from pipeline.metrics.seg import seg_details, seg_score

TRUTH = draw("""
    .....
    .1155
    .1155
    .....
""")
EMPTY = np.zeros_like(TRUTH)

# name: prediction, Jaccard index of object 1 and of object 5
PAIRS = {
    "identical": (TRUTH, 1, 1),
    "other ids": (draw("..... .7722 .7722 ....."), 1, 1),
    "merged": (draw("..... .3333 .3333 ....."), 4 / 8, 4 / 8),
    "half of 5 is no match": (draw("..... .1155 .11.. ....."), 1, 0),
    "three quarters of 5": (draw("..... .1155 .11.5 ....."), 1, 3 / 4),
    "5 split in half": (draw("..... .1156 .1156 ....."), 1, 0),
    "1 grown over half of 5": (draw("..... .1115 .1115 ....."), 4 / 6, 0),
    "shifted by one row": (np.roll(TRUTH, 1, axis=0), 0, 0),
    "shifted by one column": (np.roll(TRUTH, 1, axis=1), 0, 0),
    "false positives cost nothing": (draw("33333 41155 41155 66666"), 1, 1),
    "all one segment": (np.ones_like(TRUTH), 4 / 20, 4 / 20),
    "empty": (EMPTY, 0, 0),
}


@pytest.mark.parametrize("name", PAIRS)
def test_named_pairs(name):
    prediction, *jaccard = PAIRS[name]
    details = seg_details(TRUTH, prediction)
    assert details.ids.tolist() == [1, 5]
    assert details.jaccard == pytest.approx(jaccard)
    assert ((details.matches != 0) == (details.jaccard > 0)).all()
    assert seg_score(TRUTH, prediction) == pytest.approx(sum(jaccard) / 2)
    volumes = stack(*[TRUTH] * 3), stack(*[prediction] * 3)
    assert seg_score(*volumes) == pytest.approx(sum(jaccard) / 2)
    assert seg_score(*volumes, spatial_dims=2) == pytest.approx(sum(jaccard) / 2)


def test_a_hole_and_an_object_in_two_pieces():
    truth = draw("1.1 1.1 1.1")
    assert seg_score(truth, draw("2.2 2.2 2.2")) == 1
    assert seg_score(truth, draw("2.3 2.3 2.3")) == 0, "neither piece has more than half"
    ring = draw("111 1.1 111")
    assert seg_score(ring, np.ones((3, 3), int)) == pytest.approx(8 / 9)


def test_the_mean_is_over_objects_and_not_over_frames():
    one = np.where(TRUTH == 1, 1, 0)
    truth, prediction = stack(TRUTH, one, EMPTY), stack(TRUTH, EMPTY, TRUTH)
    details = seg_details(truth, prediction, spatial_dims=2)
    assert details.frames.tolist() == [0, 0, 1]
    assert details.ids.tolist() == [1, 5, 1]
    assert details.matches.tolist() == [1, 5, 0]
    assert details.score == pytest.approx(2 / 3)
    # As one volume, object 1 has 8 voxels, of which 4 are found: no match. Object 5 is found, and 4 voxels more.
    assert seg_score(truth, prediction) == pytest.approx((0 + 4 / 8) / 2)


@pytest.mark.parametrize("prediction", [TRUTH, EMPTY], ids=["cells", "empty"])
def test_without_an_object_in_the_truth_it_is_not_applicable(prediction):
    assert np.isnan(seg_score(EMPTY, prediction))
    assert np.isnan(seg_score(stack(EMPTY, EMPTY), stack(prediction, prediction), spatial_dims=2))


def random_objects(random, shape, count):
    """Boxes of the ids 1, 3, 5, ... that overwrite one another, in an image that keeps some background."""
    objects = np.zeros(shape, np.uint16)
    for k in range(count):
        corner = [int(random.integers(0, size - 3)) for size in shape]
        objects[tuple(slice(c, c + int(random.integers(2, 12))) for c in corner)] = 2 * k + 1
    objects.flat[0] = 0
    return objects


@pytest.mark.parametrize("shape", [(40, 50), (12, 20, 16)])
def test_against_py_ctcmetrics(shape, tmp_path):
    from ctc_metrics.metrics.technical.seg import seg
    from ctc_metrics.utils.representations import match

    random = np.random.default_rng(0)
    truths, predictions, matches = [], [], []
    for frame in range(4):
        truth = random_objects(random, shape, 9)
        prediction = np.roll(truth, 1, axis=-1)
        prediction[prediction == 3] = 5  # a merge
        prediction[: shape[0] // 2][prediction[: shape[0] // 2] == 7] = 50  # a split
        tifffile.imwrite(tmp_path / f"truth_{frame}.tif", truth)
        tifffile.imwrite(tmp_path / f"prediction_{frame}.tif", prediction)
        matches.append(match(str(tmp_path / f"truth_{frame}.tif"), str(tmp_path / f"prediction_{frame}.tif")))
        truths.append(truth)
        predictions.append(prediction)
    expected = seg([found[0] for found in matches], [found[4] for found in matches])
    details = seg_details(stack(*truths), stack(*predictions), spatial_dims=len(shape))
    assert 0.2 < expected < 0.9
    assert details.score == pytest.approx(expected)
    assert details.matches[details.matches != 0].tolist() == [i for found in matches for i in found[3]]


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"truth has shape \(4, 5\), the prediction \(5, 4\)"):
        seg_score(TRUTH, TRUTH.T)
    for dims in (0, 3):
        with pytest.raises(ValueError, match=f"spatial_dims is {dims}, but the truth has 2 axes"):
            seg_score(TRUTH, TRUTH, spatial_dims=dims)
