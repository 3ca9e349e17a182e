"""Windows, tiles and border weights of any size give what the whole, or the formula, gives."""

import numpy as np
import torch
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.data import MetaTensor

from pipeline.inferers.overlap_tile import OverlapTileInferer
from pipeline.inferers.sliding_window import SlidingWindow
from pipeline.label_slabs import predict_labels
from pipeline.transforms.border_weight import border_weight_map, class_weight_map

# windows and tiles: a network that looks at one voxel at a time gives in any windows what it gives on the whole


class Voxelwise:
    """Logits of several classes from one channel, voxel by voxel; class k is the largest around the value k."""

    def __init__(self, classes):
        self.classes = classes

    def __call__(self, windows):
        return torch.cat([-((windows[:, :1] - number) ** 2) for number in range(self.classes)], dim=1)


@st.composite
def windowed_images(draw, longest=9):
    """Images of any shape, some with constant parts, and the sizes of windows, of which some are larger."""
    dims = draw(st.integers(2, 3))
    size = [draw(st.integers(1, longest)) for _ in range(dims)]
    values = draw(hnp.arrays(np.int8, (draw(st.integers(1, 2)), 1, *size), elements=st.integers(0, 3)))
    if draw(st.booleans()):
        values[:, :, : draw(st.integers(0, size[0]))] = draw(st.integers(0, 3))
    window = [draw(st.integers(1, longest + 3)) for _ in range(dims)]
    return torch.from_numpy(values).float(), window


@examples(50)
@given(
    windowed_images(),
    st.sampled_from([0.0, 0.25, 0.5, 0.9]),
    st.integers(1, 5),
    st.integers(1, 4),
    st.sampled_from(["constant", "gaussian"]),
)
def test_windows_of_any_size_give_what_the_whole_gives(images, overlap, batch, classes, mode):
    image, window = images
    network = Voxelwise(classes)
    inferer = SlidingWindow(roi_size=window, sw_batch_size=batch, overlap=overlap, mode=mode)
    torch.testing.assert_close(inferer(image, network), network(image), rtol=1e-5, atol=1e-5)
    # Where every logit is 1, the mean is the sum of the weights, each divided by their sum.
    ones = SlidingWindow(roi_size=window, sw_batch_size=batch, overlap=overlap, mode=mode)
    torch.testing.assert_close(ones(image, torch.ones_like), torch.ones_like(image), rtol=1e-5, atol=1e-6)


@examples(25)
@given(windowed_images(), st.sampled_from([0.0, 0.5]), st.integers(1, 4), st.integers(2, 5))
def test_labels_slab_by_slab_are_those_of_the_whole(images, overlap, batch, classes):
    image, window = images
    network = Voxelwise(classes)
    inferer = SlidingWindow(roi_size=window, sw_batch_size=batch, overlap=overlap, mode="gaussian")
    found = predict_labels({"image": MetaTensor(image[0])}, network, inferer, [Largest()], "cpu")
    torch.testing.assert_close(torch.as_tensor(found["pred"]), network(image[:1]).argmax(1), check_dtype=False)


class Largest:
    voxelwise = True

    def __call__(self, record):
        return record | {"pred": record["pred"].argmax(0, keepdim=True)}


class ValidMean:
    """A mean of each voxel's neighbourhood by a valid convolution, behind a pooling if the divisor is not 1."""

    def __init__(self, dims, radius, divisor):
        self.radius, self.divisor = radius, (divisor,) * dims
        self.margin = (2 * radius * divisor,) * dims
        self.convolve = {2: torch.nn.functional.avg_pool2d, 3: torch.nn.functional.avg_pool3d}[dims]

    def output_size(self, size):
        return tuple(n - cut for n, cut in zip(size, self.margin, strict=True))

    def valid_input_size(self, at_least):
        sizes = [at_least] * len(self.margin) if isinstance(at_least, int) else at_least
        triples = zip(sizes, self.divisor, self.margin, strict=True)
        return tuple(-(-n // step) * step + cut for n, step, cut in triples)

    def __call__(self, tiles):
        step = self.divisor[0]
        pooled = self.convolve(tiles, step)
        mean = self.convolve(pooled, 2 * self.radius + 1, stride=1)
        for axis in range(2, tiles.ndim):
            mean = mean.repeat_interleave(step, dim=axis)
        return mean


@examples(80)
@given(
    windowed_images(),
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 5),
    st.sampled_from([("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")]),
)
def test_tiles_of_any_size_give_one_pass_over_the_padded_image(images, radius, divisor, batch, padding):
    image, tile = images
    dims = image.ndim - 2
    network = ValidMean(dims, radius, divisor)
    size, whole = image.shape[2:], network.valid_input_size(image.shape[2:])
    before = network.margin[0] // 2
    around = [(0, 0), (0, 0), *((before, n - length - before) for n, length in zip(whole, size, strict=True))]
    padded = torch.from_numpy(np.pad(image.numpy(), around, mode=padding[1]))
    expected = network(padded)[:, :, *(slice(n) for n in size)]
    inferer = OverlapTileInferer(tile_size=tile, batch_size=batch, padding=padding[0])
    torch.testing.assert_close(inferer(image, network), expected, rtol=1e-5, atol=1e-5)
    for axes in ((2,), (2, 3)):
        mirrored = torch.cat([slab.logits for slab in inferer.slabs(image, network, mirrored=axes)], dim=2)
        torch.testing.assert_close(mirrored, inferer(image.flip(axes), network).flip(axes), rtol=1e-5, atol=1e-5)


# the weight map

INSTANCES = hnp.arrays(
    np.int32,
    hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9),
    elements=st.sampled_from([0] * 6 + [1, 2, 3, 70000]),
)


def naive_weights(instances, w0, sigma):
    """Equation 2 by its letter: the distances of each voxel to all voxels of each cell."""
    weights = np.zeros(instances.shape)
    cells = [np.argwhere(instances == number) for number in np.unique(instances[instances != 0])]
    for place in np.argwhere(instances == 0) if len(cells) > 1 else ():
        d1, d2 = sorted(np.sqrt(((cell - place) ** 2).sum(1).min()) for cell in cells)[:2]
        weights[tuple(place)] = w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2))
    return weights


@examples(80)
@given(INSTANCES, st.floats(0, 20), st.floats(0.5, 8), st.randoms(use_true_random=False))
def test_weights_are_those_of_the_formula_however_cells_are_numbered_and_turned(instances, w0, sigma, chance):
    weights = border_weight_map(instances, w0, sigma)
    np.testing.assert_allclose(weights, naive_weights(instances, w0, sigma), rtol=1e-4, atol=2e-6)
    assert np.isfinite(weights).all()
    others = np.array(chance.sample(range(1, 1000), 4), np.int32)
    renamed = np.select([instances == number for number in (1, 2, 3, 70000)], others, 0)
    np.testing.assert_array_equal(border_weight_map(renamed, w0, sigma), weights)
    axis = chance.randrange(instances.ndim)
    for turn in (lambda array: np.flip(array, axis), np.transpose):
        np.testing.assert_allclose(border_weight_map(turn(instances), w0, sigma), turn(weights), rtol=1e-5, atol=1e-6)
    classes = class_weight_map(instances)
    assert (classes + weights >= classes).all()
    assert classes.min() > 0
    np.testing.assert_allclose(classes.mean(), 1, rtol=1e-5)  # whether one class is there or both
