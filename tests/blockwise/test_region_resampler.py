import pytest
import torch

from pipeline.blockwise import region_resampler
from pipeline.blockwise.file_grid import FileGrid
from pipeline.blockwise.region_resampler import RegionResampler
from pipeline.transforms.resample_planes import PlaneResampler

SIZES = [
    ((13, 9, 8), (7, 9, 11)),
    ((13, 9, 8), (29, 5, 8)),
    ((6, 9, 8), (6, 9, 8)),
    ((1, 3, 2), (5, 2, 7)),
    ((20, 4, 4), (3, 4, 9)),
]


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize(("network", "turned"), SIZES)
@pytest.mark.parametrize("step", [1, 3, 100])
def test_a_box_is_that_of_the_whole_however_it_comes(monkeypatch, network, turned, mode, step):
    monkeypatch.setattr(region_resampler, "PIECE", 40)
    volume = torch.randn(2, *network, generator=torch.Generator().manual_seed(0))
    expected = PlaneResampler(network, turned, mode)(volume)
    grid = FileGrid((0, 1, 2), (False,) * 3, turned, network)
    for box in [tuple(slice(0, n) for n in turned), tuple(slice(n // 3, n // 3 + max(n // 2, 1)) for n in turned)]:
        resampler = RegionResampler(grid, box, mode)
        found, at = [], box[0].start
        rows, *across = resampler.source
        for first in range(rows.start, rows.stop, step):
            for start, stop, planes in resampler.push(volume[:, first : min(first + step, rows.stop), *across]):
                assert (start, stop - start) == (at, planes.shape[1])
                found.append(planes.clone())
                at = stop
        assert at == box[0].stop
        torch.testing.assert_close(torch.cat(found, 1), expected[:, *box], rtol=1e-5, atol=1e-6)


def test_few_planes_are_held():
    grid = FileGrid((0, 1), (False, False), (50, 4), (100, 4))
    resampler = RegionResampler(grid, (slice(0, 50), slice(0, 4)))
    for plane in torch.arange(400.0).reshape(100, 1, 4).split(1):
        list(resampler.push(plane[None, 0]))
        assert resampler.held.numel() == 0 or resampler.held.shape[1] <= 3
