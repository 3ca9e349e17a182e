import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer
from scipy import ndimage

from pipeline.errors import InputError
from pipeline.inferers.averaged import AveragedInferer
from pipeline.inferers.overlap_tile import OverlapTileInferer
from pipeline.inferers.sliding_window import SlidingWindow
from pipeline.networks.unet import UNet

ALL = ("rotations7", "dihedral", "mirrors", "none")


def averaged(transforms="dihedral", activation="softmax", axes=None):
    return AveragedInferer(SimpleInferer(), transforms, activation, axes)


@pytest.fixture
def one_sided():
    """A network that treats no two directions alike: 2 channels in, 3 classes out."""
    torch.manual_seed(0)
    return torch.nn.Conv2d(2, 3, 5, padding=2).requires_grad_(False)


def logits_of(foreground):
    """A network of one answer, whatever the image: softmax gives it back, the foreground in channel 1."""
    foreground = torch.as_tensor(foreground)
    logits = torch.stack([1 - foreground, foreground]).log()[None]
    return lambda image: logits


class Recorder:
    """A network that keeps the images it sees, and gives both classes the same probability."""

    def __init__(self):
        self.seen = []

    def __call__(self, image):
        self.seen.append(image)
        return torch.zeros(len(image), 2, *image.shape[2:])


@pytest.mark.parametrize("transforms", ["dihedral", "mirrors", "none"])
@pytest.mark.parametrize("size", [(8, 8), (5, 12), (1, 7), (1, 1)])
def test_a_network_that_knows_no_direction_predicts_as_without(transforms, size):
    mix = torch.nn.Conv2d(2, 3, 1).requires_grad_(False)

    def network(image):
        return torch.nn.functional.avg_pool2d(mix(image), 3, stride=1, padding=1)

    image = torch.randn(2, 2, *size)
    mean, spread = averaged(transforms).predict_with_spread(image, network)
    torch.testing.assert_close(mean, network(image).log_softmax(1))
    torch.testing.assert_close(spread, torch.zeros(2, 3, *size), rtol=0, atol=1e-6)


def test_any_network_learns_to_turn_with_the_image(one_sided):
    image = torch.randn(2, 2, 9, 14)
    turns = [lambda x: torch.rot90(x, 1, (2, 3)), lambda x: x.flip(2), lambda x: x.transpose(2, 3)]
    for turn in turns:
        assert not torch.allclose(one_sided(turn(image)), turn(one_sided(image)), atol=0.1)
        mean, spread = averaged("dihedral").predict_with_spread(image, one_sided)
        turned_mean, turned_spread = averaged("dihedral").predict_with_spread(turn(image), one_sided)
        torch.testing.assert_close(turned_mean, turn(mean))
        torch.testing.assert_close(turned_spread, turn(spread))
        assert spread.min() > 0


def test_mirrors_average_every_corner_with_the_others():
    # 2 x 1 x 2 x 2 voxels: flips of three axes, of which one does nothing, bring each of 0.1 ... 0.8 to every corner.
    foreground = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]).reshape(2, 2, 2)
    mean, spread = averaged("mirrors").predict_with_spread(torch.zeros(1, 1, 2, 2, 2), logits_of(foreground))
    torch.testing.assert_close(mean[:, 1].exp(), torch.full((1, 2, 2, 2), 0.45))
    # (0.35^2 + 0.25^2 + 0.15^2 + 0.05^2) / 4 = 0.21 / 4
    torch.testing.assert_close(spread, torch.full((1, 2, 2, 2, 2), math.sqrt(0.0525)))


def test_mirrors_of_one_row_by_hand():
    mean, spread = averaged("mirrors").predict_with_spread(torch.zeros(1, 1, 1, 3), logits_of([[0.2, 0.9, 0.6]]))
    torch.testing.assert_close(mean.softmax(1)[0, 1], torch.tensor([[0.4, 0.9, 0.4]]))
    torch.testing.assert_close(spread[0, 1], torch.tensor([[0.2, 0.0, 0.2]]))
    torch.testing.assert_close(spread[0, 0], spread[0, 1])


def test_the_sigmoid_of_the_output_is_the_mean():
    logits = torch.logit(torch.tensor([[[[0.1, 0.2], [0.3, 0.8]]]]))
    mean, spread = averaged("dihedral", "sigmoid").predict_with_spread(torch.zeros(1, 1, 2, 2), lambda image: logits)
    torch.testing.assert_close(mean.sigmoid(), torch.full((1, 1, 2, 2), 0.35))
    # (0.25^2 + 0.15^2 + 0.05^2 + 0.45^2) / 4 = 0.29 / 4
    torch.testing.assert_close(spread, torch.full((1, 1, 2, 2), math.sqrt(0.0725)))


@pytest.mark.parametrize(("transforms", "count"), [("dihedral", 8), ("mirrors", 4), ("none", 1)])
def test_each_version_is_another_one_and_the_image_is_among_them(transforms, count):
    network, image = Recorder(), torch.arange(15.0).reshape(1, 1, 3, 5)
    averaged(transforms)(image, network)
    seen = {(tuple(version.shape[2:]), tuple(version.flatten().tolist())) for version in network.seen}
    assert len(seen) == len(network.seen) == count
    assert ((3, 5), tuple(range(15))) in seen
    assert all(set(values) == set(range(15)) for _, values in seen)


def test_mirrors_of_a_volume():
    network, volume = Recorder(), torch.arange(24.0).reshape(1, 1, 2, 3, 4)
    averaged("mirrors")(volume, network)
    corners = sorted(int(version[0, 0, 0, 0, 0]) for version in network.seen)
    assert corners == [0, 3, 8, 11, 12, 15, 20, 23]  # each corner of the volume came first once


@pytest.mark.parametrize(("axes", "firsts"), [([0], [0, 12]), ([2], [0, 3]), ([0, 2], [0, 3, 12, 15]), ([], [0])])
def test_mirrors_along_some_axes(axes, firsts):
    network, volume = Recorder(), torch.arange(24.0).reshape(1, 1, 2, 3, 4)
    averaged("mirrors", axes=axes)(volume, network)
    assert sorted(int(version[0, 0, 0, 0, 0]) for version in network.seen) == firsts


def test_an_axis_that_the_image_lacks():
    with pytest.raises(InputError, match=r"axes=\[2\] of an image of 2 axes.*from 0 to 1"):
        averaged("mirrors", axes=[2])(torch.zeros(1, 1, 3, 5), Recorder())


def test_seven_rotations_are_equally_spaced():
    network = Recorder()
    image = torch.arange(81.0).expand(1, 1, 61, 81)
    averaged("rotations7")(image, network)
    torch.testing.assert_close(network.seen[0], image, rtol=0, atol=0)
    angles = []
    for version in network.seen:
        centre = version[0, 0, version.shape[2] // 2 - 5 :, version.shape[3] // 2 - 5 :]
        down, right = centre[1, 0] - centre[0, 0], centre[0, 1] - centre[0, 0]
        angles.append(math.degrees(math.atan2(down, right)) % 360)
    assert sorted(angles) == pytest.approx([k * 360 / 7 for k in range(7)], abs=0.01)


@pytest.mark.parametrize("size", [(20, 33), (40, 2), (1, 25)])
def test_rotated_versions_are_those_of_scipy(size):
    network, image = Recorder(), torch.rand(1, 1, *size, dtype=torch.float64)
    averaged("rotations7")(image, network)
    assert len(network.seen) == 7
    for k, version in enumerate(network.seen):
        cosine, sine = math.cos(2 * math.pi * k / 7), math.sin(2 * math.pi * k / 7)
        rotation = np.array([[cosine, -sine], [sine, cosine]])
        shape = version.shape[2:]
        offset = (np.array(size) - 1) / 2 - rotation @ ((np.array(shape) - 1) / 2)
        expected = ndimage.affine_transform(
            image[0, 0].numpy(), rotation, offset, output_shape=tuple(shape), order=1, mode="mirror"
        )
        np.testing.assert_allclose(version[0, 0], expected, atol=1e-9)


def test_rotated_versions_hold_the_whole_image():
    network = Recorder()
    for corner in [(0, 0), (0, -1), (-1, 0), (-1, -1)]:
        image = torch.zeros(1, 1, 11, 30)
        image[0, 0, *corner] = 1
        averaged("rotations7")(image, network)
    assert len(network.seen) == 28
    # The nearest pixel is half a diagonal away at most, and there takes (1 - 0.5) (1 - 0.5) of the corner.
    assert min(version.max() for version in network.seen) >= 0.25


def test_rotations_come_back_to_their_place():
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(29.0), indexing="ij")
    foreground = (0.2 + 0.01 * y + 0.005 * x)[None, None]  # a plane, which linear interpolation does not change

    def network(image):
        return torch.cat([1 - image, image], dim=1).log()

    mean, spread = averaged("rotations7").predict_with_spread(foreground, network)
    inside = (..., slice(2, -2), slice(2, -2))  # at the border, a plane and its mirror image make a kink
    torch.testing.assert_close(mean.exp()[:, 1:][inside], foreground[inside], rtol=0, atol=1e-5)
    assert spread[inside].max() < 1e-5
    torch.testing.assert_close(mean.exp()[:, 1:], foreground, rtol=0, atol=0.01)


@pytest.mark.parametrize("transforms", ALL)
@pytest.mark.parametrize("size", [(16, 16), (7, 20), (1, 9)])
def test_probabilities_sum_to_one_and_shapes_are_kept(transforms, size, one_sided):
    mean, spread = averaged(transforms).predict_with_spread(torch.randn(2, 2, *size), one_sided)
    assert mean.shape == spread.shape == (2, 3, *size)
    torch.testing.assert_close(mean.exp().sum(1), torch.ones(2, *size))
    assert (spread >= 0).all()
    assert (spread <= 0.5).all()


@pytest.mark.parametrize("transforms", ALL)
def test_calling_returns_the_mean_alone(transforms, one_sided):
    image = torch.randn(2, 2, 10, 12)
    mean, _ = averaged(transforms).predict_with_spread(image, one_sided)
    torch.testing.assert_close(averaged(transforms)(image, one_sided), mean)


@pytest.mark.parametrize("transforms", ALL)
def test_images_of_a_batch_do_not_meet(transforms, one_sided):
    images = torch.randn(3, 2, 10, 12)
    each = [averaged(transforms)(image[None], one_sided) for image in images]
    torch.testing.assert_close(averaged(transforms)(images, one_sided), torch.cat(each))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_network_without_doubt_gives_finite_logits(activation):
    logits = torch.tensor([-1000.0, 1000.0]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4)
    mean = averaged(activation=activation)(torch.zeros(1, 1, 4, 4), lambda image: logits)
    assert mean.isfinite().all()
    probabilities = mean.softmax(1) if activation == "softmax" else mean.sigmoid()
    torch.testing.assert_close(probabilities, (logits > 0).float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("transforms", ALL)
def test_half_precision_is_averaged_in_single(transforms):
    result = averaged(transforms)(torch.rand(1, 1, 6, 8).half(), lambda image: torch.cat([image, -image], dim=1))
    assert result.dtype == torch.float32


def test_metadata_of_the_image_are_kept(one_sided):
    image = MetaTensor(torch.randn(1, 2, 6, 8), affine=torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0])))
    for result in averaged().predict_with_spread(image, one_sided):
        assert isinstance(result, MetaTensor)
        torch.testing.assert_close(result.affine, image.affine)
    torch.testing.assert_close(averaged()(image, one_sided).as_tensor(), averaged()(image.as_tensor(), one_sided))


@pytest.mark.parametrize("transforms", ALL)
def test_a_valid_network_is_averaged_over_its_tiles(transforms):
    network = UNet(channels=(2, 4), padding="valid").eval()
    image = torch.randn(1, 1, 31, 18)
    with torch.no_grad():
        tiled = AveragedInferer(OverlapTileInferer(12), transforms)(image, network)
        whole = AveragedInferer(OverlapTileInferer(100), transforms)(image, network)
    assert tiled.shape == (1, 2, 31, 18)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)


def test_a_prediction_of_another_size_than_the_image_is_refused():
    with pytest.raises(
        InputError, match=r"the prediction has \(4, 8\) voxels, its image \(6, 10\).*OverlapTileInferer"
    ):
        averaged()(torch.zeros(1, 2, 6, 10), torch.nn.Conv2d(2, 3, 3))


@pytest.mark.parametrize(("channels", "activation"), [(1, "sigmoid"), (2, "softmax"), (3, "softmax")])
def test_the_activation_follows_from_the_channels(channels, activation):
    image = torch.randn(1, channels, 4, 6, generator=torch.Generator().manual_seed(0))
    chosen, named = averaged(activation=None), averaged(activation=activation)
    network = torch.nn.Conv2d(channels, channels, 3, padding=1)
    for ours, theirs in zip(*(each.predict_with_spread(image, network) for each in (chosen, named)), strict=True):
        assert torch.equal(ours, theirs)


def test_the_softmax_of_one_channel_is_refused():
    with pytest.raises(InputError, match="activation='sigmoid'"):
        averaged()(torch.zeros(1, 1, 4, 4), lambda image: image)


@pytest.mark.parametrize("transforms", ["dihedral", "rotations7"])
def test_turns_of_a_volume_are_refused(transforms):
    with pytest.raises(InputError, match="transforms='mirrors'"):
        averaged(transforms)(torch.zeros(1, 1, 4, 4, 4), Recorder())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transforms": "rotations"}, "transforms='rotations' is unknown.*rotations7, dihedral, mirrors, none"),
        ({"transforms": "mirrors", "axes": [3]}, r"axes=\[3\].*numbers from 0 to 2"),
        ({"transforms": "dihedral", "axes": [0]}, "axes=.*use transforms='mirrors'"),
        ({"activation": "relu"}, "activation='relu' is unknown.*softmax, sigmoid"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(InputError, match=message):
        averaged(**options)


INNER = {
    "windows": lambda: (SlidingWindow(roi_size=8, sw_batch_size=3, overlap=0.25, mode="gaussian"), one_sided_3d()),
    "tiles": lambda: (
        OverlapTileInferer(6, batch_size=1),
        UNet(3, channels=(2, 2), in_channels=2, padding="valid").eval(),
    ),
}


def one_sided_3d():
    torch.manual_seed(0)
    return torch.nn.Conv3d(2, 3, 5, padding=2).requires_grad_(False)


class Whole:
    """An inferer's results, without its slabs."""

    def __init__(self, inferer):
        self.inferer = inferer

    def __call__(self, image, network):
        return self.inferer(image, network)


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("transforms", ["mirrors", "none"])
@pytest.mark.parametrize("height", [11, 90])
@torch.no_grad()
def test_slabs_give_what_whole_predictions_give(inner, transforms, height):
    """A short image in turn, a tall one side by side; 90 planes are no multiple of a step."""
    inferer, network = INNER[inner]()
    image = torch.randn(1, 2, height, 6, 5)
    mean, spread = AveragedInferer(Whole(inferer), transforms).predict_with_spread(image, network)
    slabs = list(AveragedInferer(inferer, transforms).slabs(image, network, spread=True))
    assert [slab.start for slab in slabs] == [0, *(slab.stop for slab in slabs[:-1])]
    assert slabs[-1].stop == height
    assert len(slabs) > 5 or height == 11
    torch.testing.assert_close(torch.cat([slab.logits for slab in slabs], dim=2), mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([slab.spread for slab in slabs], dim=2), spread, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("height", [11, 90])
@torch.no_grad()
def test_calling_joins_the_slabs_to_the_last_bit(inner, height):
    inferer, network = INNER[inner]()
    average, image = AveragedInferer(inferer, "mirrors"), torch.randn(1, 2, height, 6, 5)
    slabs = list(average.slabs(image, network))
    assert torch.equal(torch.cat([slab.logits for slab in slabs], dim=2), average(image, network))


def test_versions_side_by_side_are_pulled_as_far_as_needed():
    """After the first slab of a tall image, each of the 4 versions has seen its first windows only."""
    network = Recorder()
    average = AveragedInferer(SlidingWindow(roi_size=8, overlap=0.5), "mirrors")
    slabs = average.slabs(torch.randn(1, 1, 400, 8), network)
    first = next(slabs)
    assert (first.start, first.stop) == (0, 4)
    assert len(network.seen) == 4
    assert sum(1 for _ in slabs) > 90
    assert len(network.seen) == 4 * 99  # starts 0, 4, ..., 392
