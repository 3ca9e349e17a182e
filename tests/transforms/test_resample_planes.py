"""Planes come in any portions, and what goes out is the volume that PyTorch resamples at once."""

import pytest
import torch
from torch.nn.functional import interpolate

from pipeline.transforms import resample_planes
from pipeline.transforms.resample_planes import PlaneResampler

SIZES = {
    "finer": ((7, 9, 11), (13, 20, 17)),
    "coarser": ((13, 20, 17), (7, 9, 11)),
    "finer along the first axis alone": ((5, 9, 11), (41, 9, 11)),
    "far coarser along it alone": ((40, 9, 11), (5, 9, 11)),
    "only across": ((6, 6, 6), (6, 9, 5)),
    "from one plane": ((1, 4, 5), (9, 7, 7)),
    "to one plane": ((9, 4, 5), (1, 7, 7)),
    "nothing to do": ((9, 4, 5), (9, 4, 5)),
}
OF_TORCH = {
    "linear": {"mode": "trilinear", "align_corners": False},
    "nearest": {"mode": "nearest-exact"},
}


def in_portions(volume, new_size, mode, portion):
    resampler, found, at = PlaneResampler(volume.shape[1:], new_size, mode), [], 0
    for first in range(0, volume.shape[1], portion):
        for start, stop, planes in resampler.push(volume[:, first : first + portion]):
            assert start == at < stop
            assert planes.shape == (len(volume), stop - start, *new_size[1:])
            found.append(planes)
            at = stop
    assert at == new_size[0]
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("mode", OF_TORCH)
@pytest.mark.parametrize("name", SIZES)
def test_it_is_the_interpolation_of_torch(name, mode):
    old, new = SIZES[name]
    volume = torch.randn(3, *old)
    expected = interpolate(volume[None].double(), size=new, **OF_TORCH[mode])[0]
    torch.testing.assert_close(PlaneResampler(old, new, mode)(volume), expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", OF_TORCH)
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("portion", [1, 2, 3, 100])
@pytest.mark.parametrize(("piece", "in_cache"), [(1, 1), (2**22, 1000), (2**22, 2**19)])
def test_portions_equal_the_whole_bit_by_bit(name, mode, portion, piece, in_cache, monkeypatch):
    old, new = SIZES[name]
    volume = torch.randn(3, *old)
    whole = PlaneResampler(old, new, mode)(volume)
    monkeypatch.setattr(resample_planes, "PIECE", piece)
    monkeypatch.setattr(resample_planes, "IN_CACHE", in_cache)
    assert torch.equal(in_portions(volume, new, mode, portion), whole)


def test_planes_between_two_by_hand():
    # Two planes to four: centres at -0.25, 0.25, 0.75 and 1.25 of the old ones; outside, the outermost goes on.
    volume = torch.tensor([0.0, 8.0]).reshape(1, 2, 1, 1)
    assert PlaneResampler((2, 1, 1), (4, 1, 1))(volume).flatten().tolist() == [0, 2, 6, 8]
    resampler = PlaneResampler((2, 1, 1), (4, 1, 1))
    assert [(start, stop) for start, stop, _ in resampler.push(volume[:, :1])] == [(0, 1)]  # the rest lies between
    assert [(start, stop) for start, stop, _ in resampler.push(volume[:, 1:])] == [(1, 4)]


def test_labels_keep_type_and_values():
    labels = torch.randint(2**40, (1, 6, 6, 6))
    resampled = PlaneResampler((6, 6, 6), (9, 9, 9), "nearest")(labels)
    assert resampled.dtype == torch.int64
    assert set(resampled.unique().tolist()) == set(labels.unique().tolist())


def test_planes_that_are_done_are_let_go():
    resampler, plane = PlaneResampler((100, 4, 4), (150, 4, 4)), torch.zeros(1, 1, 4, 4)
    for _ in range(100):
        list(resampler.push(plane))
        assert resampler.held.untyped_storage().size() <= 2 * 4 * plane.numel()
