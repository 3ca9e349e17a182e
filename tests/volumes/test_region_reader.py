import numpy as np
import pytest

from pipeline.volumes.region_reader import check_box, pieces, whole


def test_the_size_of_a_box():
    assert check_box((slice(2, 5), slice(0, 7), slice(3, 3)), (5, 7, 4)) == (3, 7, 0)
    for box in ((slice(2, 6),), (slice(-1, 3),), (slice(3, 2),), (slice(0, 4, 2),), (slice(0, 1), slice(0, 1))):
        with pytest.raises(ValueError, match="does not lie within a volume of shape"):
            check_box(box, (5,))


@pytest.mark.parametrize("step", [(1, 1), (3, 4), (5, 2), (100, 100)])
@pytest.mark.parametrize("box", [(slice(0, 11), slice(0, 9)), (slice(4, 10), slice(3, 5)), (slice(6, 7), slice(8, 9))])
def test_pieces_cover_a_box_once_and_cross_no_multiple(box, step):
    count = np.zeros((11, 9), int)
    for piece in pieces(box, step):
        count[piece] += 1
        assert all(part.start // n == (part.stop - 1) // n for part, n in zip(piece, step, strict=True))
    expected = np.zeros((11, 9), int)
    expected[box] = 1
    np.testing.assert_array_equal(count, expected)


def test_pieces_are_as_few_as_can_be():
    assert len(list(pieces((slice(2, 9), slice(0, 8)), (4, 4)))) == 3 * 2
    assert list(pieces((slice(4, 4), slice(0, 8)), (4, 4))) == []


def test_the_box_of_a_whole_volume():
    assert whole((3, 4)) == (slice(0, 3), slice(0, 4))
