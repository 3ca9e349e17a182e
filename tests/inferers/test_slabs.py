import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer

from pipeline.errors import InputError
from pipeline.inferers.averaged import AveragedInferer
from pipeline.inferers.slabs import Slab, in_pieces, joined, slabs_of
from pipeline.inferers.sliding_window import SlidingWindow


def double(image):
    return 2 * image


def test_an_inferer_without_slabs_gives_one_of_everything():
    image = torch.randn(1, 2, 6, 5)
    (slab,) = slabs_of(SimpleInferer(), image, double)
    assert (slab.start, slab.stop, slab.spread) == (0, 6, None)
    assert torch.equal(slab.logits, 2 * image)


def test_an_inferer_with_slabs_gives_its_own():
    image = torch.randn(1, 2, 16, 5)
    slabs = list(slabs_of(SlidingWindow(roi_size=4), image, double))
    assert len(slabs) > 1
    torch.testing.assert_close(joined(slabs, image)[0], 2 * image)


def test_the_spread_needs_several_predictions():
    image = torch.randn(1, 2, 6, 5)
    with pytest.raises(InputError, match=r"SlidingWindow predicts once.*AveragedInferer"):
        list(slabs_of(SlidingWindow(roi_size=4), image, double, spread=True))
    (slab,) = slabs_of(AveragedInferer(SimpleInferer(), "mirrors"), image, double, spread=True)
    assert slab.spread.shape == slab.logits.shape

    class Own:
        def predict_with_spread(self, image, network):
            return network(image), torch.ones_like(image)

    (slab,) = slabs_of(Own(), image, double, spread=True)
    assert torch.equal(slab.logits, 2 * image)
    assert slab.spread.min() == 1


def test_a_network_of_several_outputs_is_named():
    with pytest.raises(InputError, match="the network gives a tuple"):
        list(slabs_of(SimpleInferer(), torch.zeros(1, 1, 4, 4), lambda image: (image, image)))


def test_joined_slabs_carry_the_images_metadata():
    image = MetaTensor(torch.zeros(1, 1, 3, 2), affine=torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0])))
    parts = torch.arange(12.0).reshape(1, 2, 3, 2)
    slabs = [Slab(0, 2, parts[:, :, :2], -parts[:, :, :2]), Slab(2, 3, parts[:, :, 2:], -parts[:, :, 2:])]
    logits, spread = joined(slabs, image)
    assert torch.equal(logits.as_tensor(), parts)
    assert torch.equal(spread.as_tensor(), -parts)
    assert torch.equal(logits.affine, image.affine)


def test_pieces_are_views_of_few_values(monkeypatch):
    monkeypatch.setattr("pipeline.inferers.slabs.PIECE", 9)
    values = torch.arange(20.0).reshape(1, 2, 5, 2)
    pieces = list(in_pieces(Slab(10, 15, values, -values)))
    assert [(piece.start, piece.stop) for piece in pieces] == [(10, 12), (12, 14), (14, 15)]
    assert torch.equal(torch.cat([piece.logits for piece in pieces], dim=2), values)
    assert torch.equal(pieces[1].spread, -values[:, :, 2:4])
    assert pieces[1].logits.untyped_storage().data_ptr() == values.untyped_storage().data_ptr()


def test_scaled_slabs_are_only_those_of_an_inferer_that_sums():
    image, window = torch.randn(1, 2, 16, 5), SlidingWindow(roi_size=4, overlap=0.5)
    scaled = torch.cat([slab.logits.clone() for slab in slabs_of(window, image, double, scaled=True)], dim=2)
    windows = torch.tensor([2, 4, 4, 4, 2])  # of each voxel: two along the first axis, one or two along the other
    torch.testing.assert_close(scaled[:, :, 4:8], 2 * image[:, :, 4:8] * windows)
    (slab,) = slabs_of(SimpleInferer(), image, double, scaled=True)
    assert torch.equal(slab.logits, 2 * image)
    slabs = list(slabs_of(AveragedInferer(window, "none"), image, double, scaled=True))
    torch.testing.assert_close(joined(slabs, image)[0].softmax(1), (2 * image).softmax(1))


def test_logits_of_few_digits_come_as_float32():
    """What resamples them, or takes their softmax, would lose more."""
    logits = torch.tensor([[[[0.1, 0.2]], [[0.3, 0.4]]]], dtype=torch.bfloat16)
    (slab,) = slabs_of(lambda image, network: logits, torch.zeros(1, 1, 1, 2), None)
    assert slab.logits.dtype == torch.float32
    assert torch.equal(slab.logits, logits.float())
