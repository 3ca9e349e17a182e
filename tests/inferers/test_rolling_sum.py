import pytest
import torch

from pipeline.inferers.rolling_sum import RollingSum


def test_two_rows_of_windows_by_hand():
    # Windows of two planes and one column start at planes 0 and 1; weights are 1 and 3 within each.
    sums = RollingSum((1, 3, 1), height=3, dtype=torch.float32, device="cpu")
    weight = torch.tensor([[1.0], [3.0]])
    sums.add(0, (0, 0), torch.tensor([[[2.0], [4.0]]]), weight)
    (first,) = sums.take(0, 1)
    sums.add(0, (1, 0), torch.tensor([[[8.0], [5.0]]]), weight)
    (rest,) = sums.take(1, 3)
    assert (first.start, first.stop, first.logits.flatten().tolist()) == (0, 1, [2.0])
    # (3 x 4 + 1 x 8) / 4, and the last one alone
    assert (rest.start, rest.stop, rest.logits.flatten().tolist()) == (1, 3, [5.0, 5.0])


@pytest.mark.parametrize("height", [4, 5, 7, 20])
def test_whatever_the_rings_height_each_plane_is_the_mean_of_its_windows(height):
    torch.manual_seed(0)
    windows, weight = torch.randn(9, 2, 3, 4, 5), torch.rand(4, 5) + 0.1
    total, weights = torch.zeros(2, 3, 20, 5), torch.zeros(20, 5)
    sums, found, stops = RollingSum((2, 20, 5), height, torch.float32, "cpu"), [], []
    for number, window in enumerate(windows):
        start = 2 * number
        for image in range(2):
            sums.add(image, (start, 0), window[image], weight)
            total[image, :, start : start + 4] += window[image] * weight
        weights[start : start + 4] += weight
        for slab in sums.take(start, start + 2 if number < 8 else 20):
            found.append(slab.logits)
            stops.append(slab.stop)
    torch.testing.assert_close(torch.cat(found, dim=2), total / weights)
    assert stops == sorted(stops)
    assert sums.sums.shape == (2, 3, height, 5)


def test_slabs_keep_their_values_when_the_ring_goes_on():
    sums = RollingSum((1, 4, 1), 2, torch.float32, "cpu")
    one = torch.ones(1, 1)
    sums.add(0, (0, 0), one[None], one)
    (slab,) = sums.take(0, 1)
    for plane in (1, 2, 3):
        sums.add(0, (plane, 0), 7 * one[None], one)
        assert [float(other.logits) for other in sums.take(plane, plane + 1)] == [7.0]
    assert float(slab.logits) == 1.0


def test_sums_of_the_host_have_nowhere_to_go():
    sums = RollingSum((1, 4, 1), 2, torch.float32, "cpu")
    assert not sums.to_host()
    assert RollingSum((1, 4, 1), 2, torch.float32, "meta").to_host()
