from itertools import product

import pytest
import torch

from pipeline.inferers.rolling_sum import RollingSum


def test_two_rows_of_windows_by_hand():
    # Windows of two planes and one column start at planes 0 and 1; weights are 1 and 3 within each.
    sums = RollingSum((1, 3, 1), [[0, 1], [0]], torch.tensor([[1.0], [3.0]]), torch.float32, "cpu")
    sums.add(0, (0, 0), torch.tensor([[[2.0], [4.0]]]))
    (first,) = sums.take(0, 1)
    sums.add(0, (1, 0), torch.tensor([[[8.0], [5.0]]]))
    (middle, last) = sums.take(1, 3)  # plane 2 stands where plane 0 was
    assert (first.start, first.stop, first.logits.flatten().tolist()) == (0, 1, [2.0])
    # (3 x 4 + 1 x 8) / 4, and the last one alone
    assert (middle.start, middle.stop, middle.logits.flatten().tolist()) == (1, 2, [5.0])
    assert (last.start, last.stop, last.logits.flatten().tolist()) == (2, 3, [5.0])


@pytest.mark.parametrize("step", [1, 2, 3, 4])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_plane_is_the_mean_of_its_windows(step, channels_last, dtype, monkeypatch):
    monkeypatch.setattr("pipeline.inferers.rolling_sum.CONVERTED", 2 * 5 * 3)  # three planes of a window
    torch.manual_seed(0)
    starts = [list(range(0, 17, step)), [0, 2, 3]]
    weight = torch.rand(4, 5) + 0.1
    size = (2, starts[0][-1] + 4, 8)
    sums, found, stops = RollingSum(size, starts, weight, torch.float32, "cpu"), [], []
    total, weights = torch.zeros(2, 2, *size[1:]), torch.zeros(size[1:])
    for row in starts[0]:
        for image, column in product(range(2), starts[1]):
            window = torch.randn(4, 5, 2).movedim(-1, 0).to(dtype)
            sums.add(image, (row, column), window if channels_last else window.contiguous())
            total[image, :, row : row + 4, column : column + 5] += window.float() * weight
            weights[row : row + 4, column : column + 5] += weight * (image == 0)
        for slab in sums.take(row, row + step if row < starts[0][-1] else size[1]):
            found.append(slab.logits)
            stops.append(slab.stop)
    torch.testing.assert_close(torch.cat(found, dim=2), total / weights)
    assert stops == sorted(stops)
    assert sums.sums.shape == (2, 2, 4, 8)
    assert (sums.sums.stride(1) == 1) == channels_last


def test_sums_are_means_times_the_weights_until_the_next_slab():
    one = torch.full((2, 1), 3.0)
    both = []
    for means in (True, False):
        sums = RollingSum((1, 2, 1), [[0], [0]], one, torch.float32, "cpu")
        sums.add(0, (0, 0), torch.tensor([[[5.0], [7.0]]]))
        slabs = sums.take(0, 2, means)
        slab = next(slabs)
        both.append(slab.logits.flatten().tolist())
        assert next(slabs, None) is None
        assert (sums.sums == 0).all()
        assert (slab.logits.sum() == 12) == means  # a mean is a copy
    assert both == [[5.0, 7.0], [15.0, 21.0]]


def test_means_keep_their_values_when_the_ring_goes_on():
    sums = RollingSum((1, 4, 1), [[0, 1, 2, 3], [0]], torch.ones(1, 1), torch.float32, "cpu")
    sums.add(0, (0, 0), torch.ones(1, 1, 1))
    (slab,) = sums.take(0, 1)
    for plane in (1, 2, 3):
        sums.add(0, (plane, 0), torch.full((1, 1, 1), 7.0))
        assert [float(other.logits) for other in sums.take(plane, plane + 1)] == [7.0]
    assert float(slab.logits) == 1.0


def test_sums_of_the_host_have_nowhere_to_go():
    sums = RollingSum((1, 4, 1), [[0, 2], [0]], torch.ones(2, 1), torch.float32, "cpu")
    assert not sums.to_host()
    assert RollingSum((1, 4, 1), [[0, 2], [0]], torch.ones(2, 1), torch.float32, "meta").to_host()
