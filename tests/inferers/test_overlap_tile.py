import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from pipeline.errors import InputError
from pipeline.inferers.overlap_tile import OverlapTileInferer
from pipeline.networks.unet import UNet


def valid_unet(**options):
    torch.manual_seed(0)
    return UNet(**{"channels": (2, 4, 4), "in_channels": 2, "out_channels": 3, "padding": "valid", **options}).eval()


def predict(image, network, **options):
    with torch.no_grad():
        return OverlapTileInferer(**options)(image, network)


def whole_image_in_one_pass(image, network, mode="reflect"):
    """The image with half the margin before each axis, and after it as much as makes its size legal."""
    size = image.shape[2:]
    before = [margin // 2 for margin in network.margin]
    after = [seen - n - front for seen, n, front in zip(network.valid_input_size(size), size, before, strict=True)]
    padded = np.pad(image.numpy(), [(0, 0), (0, 0), *zip(before, after, strict=True)], mode=mode)
    with torch.no_grad():
        return network(torch.from_numpy(padded))[:, :, *(slice(n) for n in size)]


@pytest.mark.parametrize(
    ("size", "tile_size", "options"),
    [
        pytest.param((64, 64), 16, {}, id="even"),
        pytest.param((71, 53), 9, {}, id="odd"),
        pytest.param((40, 61), (8, 30), {}, id="a tile size per axis"),
        pytest.param((30, 30), 1, {"channels": (2, 2, 2, 2)}, id="a tile smaller than the divisor"),
        pytest.param((3, 30), 9, {"channels": (2, 2, 2, 2)}, id="an image smaller than the divisor"),
        pytest.param((3, 2), 20, {}, id="an image smaller than a tile and than the context"),
        pytest.param((1, 45), 10, {}, id="one row"),
        pytest.param((1, 1), 10, {}, id="one pixel"),
        pytest.param((39, 57), 10, {"channels": (2, 2, 2, 2)}, id="four levels"),
        pytest.param((39, 57), 10, {"upsample": "linear"}, id="interpolation"),
        pytest.param((39, 57), 10, {"strides": (3, 2)}, id="a stride of three"),
        pytest.param((39, 57), 10, {"strides": ((1, 2), 2), "stem_kernel": 7, "norm": "batch"}, id="all different"),
        pytest.param((19, 22, 17), 9, {"spatial_dims": 3, "channels": (2, 4)}, id="3D"),
        pytest.param((1, 23, 30), 12, {"spatial_dims": 3, "channels": (2, 4)}, id="3D, one slice"),
        pytest.param(
            (7, 23, 30),
            (2, 9, 9),
            {"spatial_dims": 3, "kernel_size": (1, 3, 3), "strides": ((1, 2, 2), 2)},
            id="3D, no context along one axis",
        ),
    ],
)
def test_tiles_give_what_the_whole_image_gives(size, tile_size, options):
    network, image = valid_unet(**options), torch.randn(2, 2, *size)
    expected = whole_image_in_one_pass(image, network)
    actual = predict(image, network, tile_size=tile_size, batch_size=3)
    assert actual.shape == (2, 3, *size)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("padding", "of_numpy"), [("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")])
@pytest.mark.parametrize("size", [(5, 33), (1, 2)])
def test_paddings_are_those_of_numpy_even_where_they_are_wider_than_the_image(padding, of_numpy, size):
    network, image = valid_unet(), torch.randn(1, 2, *size)
    assert network.margin[0] // 2 > 2 * size[0]
    actual = predict(image, network, tile_size=10, padding=padding)
    torch.testing.assert_close(actual, whole_image_in_one_pass(image, network, of_numpy), rtol=0, atol=1e-5)


class Centre(UNet):
    """The paper's network in its sizes, which returns the part of the image that it should classify."""

    def __init__(self):
        super().__init__(channels=(1,) * 5, padding="valid")
        self.batches = []

    def forward(self, x):
        self.output_size(x.shape[2:])  # raises for a size that a pooling could not halve
        self.batches.append(x[:, :, 92:-92, 92:-92])
        return self.batches[-1]


def test_the_tiles_of_the_paper_start_at_multiples_of_sixteen():
    network = Centre()
    image = torch.arange(900.0)[:, None] * 1000 + torch.arange(388)
    result = predict(image[None, None], network, tile_size=388, batch_size=2)
    torch.testing.assert_close(result[0, 0], image, rtol=0, atol=0)
    assert [tuple(batch.shape) for batch in network.batches] == [(2, 1, 388, 388), (1, 1, 388, 388)]
    # 388 = 24 x 16 + 4. The last tile ends with the image: 900 - 388 = 512.
    assert [int(tile[0, 0, 0]) for batch in network.batches for tile in batch] == [0, 384_000, 512_000]


def test_batches_hold_tiles_of_several_images():
    network = Centre()
    image = torch.rand(3, 1, 100, 50)
    torch.testing.assert_close(predict(image, network, tile_size=52, batch_size=4), image)  # starts at 0, 48
    assert [len(batch) for batch in network.batches] == [4, 2]


def test_a_wrapped_network_is_asked_too():
    network, image = valid_unet(), torch.randn(1, 2, 30, 30)
    expected = predict(image, network, tile_size=12)
    wrapped = torch.nn.DataParallel(network, device_ids=[])
    torch.testing.assert_close(predict(image, wrapped, tile_size=12), expected)
    compiled = torch.compile(network, backend="eager")
    torch.testing.assert_close(predict(image, compiled, tile_size=12), expected)
    torch.testing.assert_close(predict(image, torch.compile(wrapped, backend="eager"), tile_size=12), expected)


def test_the_result_can_be_put_together_elsewhere():
    network, image = valid_unet(), torch.randn(1, 2, 30, 30)
    assert predict(image, network, tile_size=12).device == image.device
    assert predict(image, network, tile_size=12, device="meta").device.type == "meta"


def test_metadata_of_the_image_and_type_of_the_output_are_kept():
    affine = torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.randn(1, 2, 30, 30), affine=affine)
    network = valid_unet()
    result = predict(image, network, tile_size=12)
    assert isinstance(result, MetaTensor)
    torch.testing.assert_close(result.affine, affine)
    plain = predict(image.as_tensor(), network, tile_size=12)
    assert type(plain) is torch.Tensor
    torch.testing.assert_close(result.as_tensor(), plain)
    assert predict(image.as_tensor().bfloat16(), network.bfloat16(), tile_size=12).dtype == torch.bfloat16


def test_further_arguments_reach_the_network():
    class Scaled(Centre):
        def forward(self, x, factor, shift=0):
            return super().forward(x) * factor + shift

    image = torch.rand(1, 1, 20, 20)
    result = OverlapTileInferer(20)(image, Scaled(), 2, shift=1)
    torch.testing.assert_close(result, 2 * image + 1)


def test_a_network_that_pads_with_zeros_is_refused():
    with pytest.raises(InputError, match="would not fit together"):
        predict(torch.randn(1, 2, 30, 30), valid_unet(padding="same"), tile_size=12)


def test_a_network_that_does_not_tell_its_sizes_is_refused():
    with pytest.raises(InputError, match="Conv2d does not say which sizes it takes"):
        predict(torch.randn(1, 2, 30, 30), torch.nn.Conv2d(2, 3, 3), tile_size=12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile_size": 0}, "tile_size=0"),
        ({"tile_size": (8, -1)}, "must be 1 or more"),
        ({"tile_size": 8, "batch_size": 0}, "batch_size=0"),
        ({"tile_size": 8, "padding": "zeros"}, "padding='zeros'.*reflect, replicate, circular"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(InputError, match=message):
        OverlapTileInferer(**options)


@pytest.mark.parametrize(("size", "tile_size"), [((30, 30, 30), 8), ((30, 30), (8, 8, 8))])
def test_the_axes_of_image_tile_and_network_must_agree(size, tile_size):
    with pytest.raises(InputError, match="does not fit 2 axes"):
        predict(torch.randn(1, 2, *size), valid_unet(), tile_size=tile_size)


TILED = [
    pytest.param((71, 53), 9, {}, id="2D"),
    pytest.param((38, 21), (8, 30), {"strides": (3, 2)}, id="a stride of three"),
    pytest.param((3, 30), 9, {"channels": (2, 2, 2, 2)}, id="an image smaller than the divisor"),
    pytest.param((25, 9, 11), 5, {"spatial_dims": 3, "channels": (2, 4)}, id="3D"),
]


@pytest.mark.parametrize(("size", "tile_size", "options"), TILED)
def test_slabs_are_rows_of_tiles_and_together_the_whole(size, tile_size, options):
    network, image, tiles = valid_unet(**options), torch.randn(2, 2, *size), OverlapTileInferer(tile_size, batch_size=3)
    with torch.no_grad():
        slabs, whole = list(tiles.slabs(image, network)), tiles(image, network)
    assert [slab.start for slab in slabs] == [0, *(slab.stop for slab in slabs[:-1])]
    assert slabs[-1].stop == size[0]
    assert len(slabs) > 2 or size[0] == 3
    assert max(slab.stop - slab.start for slab in slabs) == tiles.planes_held(image, network)
    assert torch.equal(torch.cat([slab.logits for slab in slabs], dim=2), whole)


@pytest.mark.parametrize(("size", "tile_size", "options"), TILED)
def test_a_mirrored_prediction_is_that_of_the_mirrored_image(size, tile_size, options):
    network, image, tiles = valid_unet(**options), torch.randn(1, 2, *size), OverlapTileInferer(tile_size)
    for axes in [(2,), (3,), tuple(range(2, image.ndim))]:
        expected = predict(image.flip(axes), network, tile_size=tile_size).flip(axes)
        with torch.no_grad():
            slabs = list(tiles.slabs(image, network, mirrored=axes))
        assert [slab.start for slab in slabs] == [0, *(slab.stop for slab in slabs[:-1])]
        actual = torch.cat([slab.logits for slab in slabs], dim=2)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
        assert not torch.allclose(actual, predict(image, network, tile_size=tile_size), atol=1e-3)


def test_the_planes_that_are_held_do_not_grow_with_the_image():
    network, tiles = valid_unet(), OverlapTileInferer(12, batch_size=4)
    heights = [tiles.planes_held(torch.zeros(1, 2, height, 30), network) for height in (100, 400)]
    assert heights[0] == heights[1] < 40


class Full(Centre):
    """A network that has memory for so many tiles at once."""

    def __init__(self, at_most):
        super().__init__()
        self.at_most = at_most

    def forward(self, x):
        if len(x) > self.at_most:
            raise torch.OutOfMemoryError("no room")
        return super().forward(x)


def test_where_memory_is_short_fewer_tiles_are_seen_at_once(caplog):
    network, tiles = Full(1), OverlapTileInferer(52, batch_size=4)
    image = torch.rand(1, 1, 100, 50)
    for _ in range(2):
        torch.testing.assert_close(tiles(image, network), image, rtol=0, atol=0)
    assert [len(batch) for batch in network.batches] == [1] * 4
    assert [record.message for record in caplog.records] == ["memory is short: 1 windows at once instead of 4"]


def test_where_a_single_tile_does_not_fit_the_result_moves_to_the_host(caplog):
    class Crowded(Full):
        def forward(self, x):
            self.at_most = 1 if not self.batches or "put together on the host" in caplog.text else 0
            return super().forward(x)

    network, image = Crowded(1), torch.rand(1, 1, 100, 50)
    tiles = OverlapTileInferer(52, batch_size=2, device="cpu:0")  # to PyTorch the host too; here it stands for a GPU
    torch.testing.assert_close(tiles(image, network), image, rtol=0, atol=0)
    assert [len(batch) for batch in network.batches] == [1, 1]
    with pytest.raises(InputError, match=r"memory does not suffice.*no room\. Remedy: .*tile_size"):
        OverlapTileInferer(52)(image, Full(0))
