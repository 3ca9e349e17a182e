import numpy as np
import pytest
from two_cells import draw

from pipeline.metrics.contingency import contingency_table

TRUTH = draw("""
    11..
    1122
""")
PREDICTION = draw("""
    355.
    335.
""")


def as_dict(table):
    ids = zip(table.truth_ids[table.i].tolist(), table.prediction_ids[table.j].tolist(), strict=True)
    return dict(zip(ids, table.n.tolist(), strict=True))


def test_by_hand():
    table = contingency_table(TRUTH, PREDICTION)
    # Row 0: 1-3, 1-5, 0-5, 0-0. Row 1: 1-3, 1-3, 2-5, 2-0.
    assert as_dict(table) == {(0, 0): 1, (0, 5): 1, (1, 3): 3, (1, 5): 1, (2, 0): 1, (2, 5): 1}
    assert dict(zip(table.truth_ids, table.truth_sizes, strict=True)) == {0: 2, 1: 4, 2: 2}
    assert dict(zip(table.prediction_ids, table.prediction_sizes, strict=True)) == {0: 2, 3: 3, 5: 3}
    foreground = dict(zip(as_dict(table), table.foreground, strict=True))
    assert [pair for pair, inside in foreground.items() if inside] == [(1, 3), (1, 5), (2, 5)]
    # 1 and 3 share 3 of 4 pixels; 1 and 5 share 1 of 6; 2 and 5 share 1 of 4.
    assert table.iou[table.foreground] == pytest.approx([3 / 4, 1 / 6, 1 / 4])


@pytest.mark.parametrize("top", [3, 40, 2**31, 2**62], ids=["few", "some", "far apart", "very far apart"])
@pytest.mark.parametrize("shape", [(13, 17), (5, 6, 7)])
def test_equals_one_count_for_each_pair(top, shape):
    random = np.random.default_rng(1)
    truth, prediction = (random.choice(random.integers(0, top, 9), shape) for _ in range(2))
    expected = {
        (a, b): int(((truth == a) & (prediction == b)).sum())
        for a in np.unique(truth).tolist()
        for b in np.unique(prediction).tolist()
    }
    table = contingency_table(truth, prediction)
    assert as_dict(table) == {pair: count for pair, count in expected.items() if count}
    assert table.truth_sizes.tolist() == [int((truth == a).sum()) for a in table.truth_ids]
    assert table.prediction_sizes.tolist() == [int((prediction == b).sum()) for b in table.prediction_ids]


def test_against_scikit_image():
    from skimage.metrics import contingency_table as scikit_image_table

    truth, prediction = np.random.default_rng(2).integers(0, 30, (2, 40, 50))
    table = contingency_table(truth, prediction)
    dense = np.zeros((30, 30), int)
    dense[table.truth_ids[table.i], table.prediction_ids[table.j]] = table.n
    np.testing.assert_array_equal(dense, scikit_image_table(truth, prediction).toarray())


def test_many_small_objects():
    truth = np.arange(90_000)  # more pairs of ids than there could be bins
    table = contingency_table(truth, truth[::-1])
    assert table.n.tolist() == [1] * 90_000
    np.testing.assert_array_equal(table.prediction_ids[table.j], 89_999 - table.truth_ids[table.i])


def test_nothing_and_masks():
    assert contingency_table(np.zeros((0, 4), int), np.zeros((0, 4), int)).n.size == 0
    assert as_dict(contingency_table(np.array([True, True, False]), np.array([0, 1, 0]))) == {
        (0, 0): 1,
        (1, 0): 1,
        (1, 1): 1,
    }


def test_what_is_no_labelling_is_refused():
    with pytest.raises(ValueError, match=r"truth has shape \(2, 4\), the prediction \(4, 2\)"):
        contingency_table(TRUTH, PREDICTION.T)
    with pytest.raises(ValueError, match="integers, not float64"):
        contingency_table(TRUTH, PREDICTION / 2)
    with pytest.raises(ValueError, match="-1 is among them"):
        contingency_table(TRUTH - 1, PREDICTION)
