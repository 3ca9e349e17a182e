from itertools import product

import pytest
import torch

from pipeline.inferers.equal_windows import LEFT_OUT, background_like, is_random, kinds_of_windows


@pytest.mark.parametrize("size", [(14,), (9, 12), (8, 5, 7)])
def test_kinds_are_those_of_each_window_by_itself(size):
    random = torch.Generator().manual_seed(0)
    images = torch.randint(2, (2, 2, *size), generator=random).float()
    images[:, :, 3:] = torch.tensor([[1.0, 2.0], [3.0, 0.5]]).reshape(2, 2, *[1] * len(size))
    window = [min(4, n) for n in size]
    starts = [list(range(0, n - own + 1, 1 + axis)) for axis, (n, own) in enumerate(zip(size, window, strict=True))]
    for skip_below in (None, 2.0):
        expected = []
        for first in starts[0]:
            for image in images:
                for rest in product(*starts[1:]):
                    cut = image[:, *(slice(at, at + n) for at, n in zip((first, *rest), window, strict=True))]
                    values = cut.flatten(1).unique(dim=1)
                    empty = skip_below is not None and cut.max() <= skip_below
                    kind = tuple(values[:, 0].tolist()) if values.shape[1] == 1 else None
                    expected.append(LEFT_OUT if empty else kind)
        assert kinds_of_windows(images, starts, window, skip_below) == expected
        assert len(set(expected)) == 3


def test_the_only_window_of_its_kind_is_like_no_other():
    image = torch.zeros(1, 1, 12)
    image[0, 0, 4:8] = 5.0
    assert kinds_of_windows(image, [[0, 4, 8]], [4], None) == [(0.0,), None, (0.0,)]
    assert kinds_of_windows(image, [[0, 4, 8]], [4], None, at_least=1) == [(0.0,), (5.0,), (0.0,)]


def test_a_dropout_that_alone_is_on_makes_a_network_random():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.Dropout()).eval()
    assert not is_random(network)
    network[1].train()
    assert is_random(network)
    assert not is_random(lambda windows: windows)


def test_background_in_the_type_and_place_of_an_output():
    output = torch.randn(3, 2, 2).double()
    assert background_like(output).tolist() == [[[value] * 2] * 2 for value in (10.0, 0.0, 0.0)]
    assert background_like(output).dtype == torch.float64
    assert background_like(output[:1]).tolist() == [[[-10.0] * 2] * 2]
