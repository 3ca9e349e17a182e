"""What holds for any input, tried on many: windows and tiles, weight maps, folds, label maps on disk, merged configs.

The examples are the same on every run; HYPOTHESIS_EXAMPLES=2000 in the environment asks for more of them.
"""

import json
import os
from collections import Counter
from itertools import count

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from pipeline.bundle import flatten
from pipeline.datalists.datalist import Case, DataList, assign_folds, load_data_list, save_data_list
from pipeline.errors import InputError
from pipeline.inferers.overlap_tile import OverlapTileInferer
from pipeline.inferers.sliding_window import SlidingWindow
from pipeline.label_slabs import predict_labels
from pipeline.settings import unknown_keys
from pipeline.transforms.border_weight import border_weight_map, class_weight_map
from pipeline.volumes.reading import read_volume
from pipeline.volumes.writing import write_label_map, write_volume

EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "0"))


def examples(number):
    """Seeded, without a time limit for one of them (the machine may be busy), and without a folder of old failures."""
    return settings(max_examples=EXAMPLES or number, derandomize=True, deadline=None, database=None)


@pytest.fixture(scope="module")
def fresh_folder(tmp_path_factory):
    """Return a function that makes an empty folder, for each example."""
    top, numbers = tmp_path_factory.mktemp("examples"), count()

    def make():
        folder = top / str(next(numbers))
        folder.mkdir()
        return folder

    return make


def refusal_of(write, *args, **options):
    """What a function of ours refuses, or None."""
    try:
        write(*args, **options)
    except InputError as error:
        return error
    return None


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


# folds

IDS = st.lists(st.text("abcdef01", min_size=1, max_size=4), min_size=1, max_size=40, unique=True)


@examples(100)
@given(IDS, st.data(), st.integers(0, 12), st.integers(0, 2**32))
def test_folds_place_every_case_and_divide_no_group(ids, data, n_folds, seed):
    groups = data.draw(
        st.lists(st.none() | st.sampled_from([*"abcde", *ids[:3]]), min_size=len(ids), max_size=len(ids))
    )
    members = Counter(
        ("group", group) if group is not None else ("case", case) for case, group in zip(ids, groups, strict=True)
    )
    if not 2 <= n_folds <= len(members):
        with pytest.raises(InputError, match="cannot fill"):
            assign_folds(ids, groups, n_folds, seed)
        return
    folds = assign_folds(ids, groups, n_folds, seed)
    assert list(folds) == ids
    assert set(folds.values()) == set(range(n_folds))
    of_group = {}
    for case, group in zip(ids, groups, strict=True):
        if group is not None:
            assert of_group.setdefault(group, folds[case]) == folds[case]
    sizes = Counter(folds.values())
    assert max(sizes.values()) - min(sizes.values()) <= max(members.values())
    order = data.draw(st.permutations(range(len(ids))))
    again = assign_folds([ids[place] for place in order], [groups[place] for place in order], n_folds, seed)
    assert again == folds


@examples(30)
@given(IDS, st.data(), st.integers(2, 6))
def test_a_list_of_folds_splits_its_cases_and_is_saved_as_it_is(fresh_folder, ids, data, n_folds):
    groups = data.draw(st.lists(st.none() | st.sampled_from("abc"), min_size=len(ids), max_size=len(ids)))
    assume(n_folds <= len({group or (case,) for case, group in zip(ids, groups, strict=True)}))
    folds = assign_folds(ids, groups, n_folds, 0)
    described = dict.fromkeys(("name", "description", "licence", "source", "made_by"), "tests")
    cases = [
        Case(case, f"{case}.png", f"l/{case}.png", group, folds[case]) for case, group in zip(ids, groups, strict=True)
    ]
    made = DataList(
        **described, spatial_dims=2, label_kind="classes", classes=("0", "1"), channels=("a",), cases=tuple(cases)
    )
    file = fresh_folder() / "list.json"
    save_data_list(made, file)
    assert load_data_list(file) == made
    seen = Counter()
    for fold in made.folds:
        training, validation = (
            {case.id: case.group for case in made.select(split, fold)} for split in ("training", "validation")
        )
        assert {*training, *validation} == set(ids)
        assert not training.keys() & validation.keys()
        assert not {*training.values()} & {*validation.values()} - {None}
        seen.update(validation.keys())
    assert seen == Counter(ids)


# label maps and volumes on disk

SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".tif", ".png")
PLACED = SUFFIXES[:5]
LABELS = [np.bool_, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float16, np.float32, np.float64]


@st.composite
def affines(draw):
    """Axes of any length and order, turned by any angles, anywhere."""
    angles = [draw(st.floats(-3.1, 3.1)) for _ in range(3)]
    turn = np.eye(3)
    for (i, j), angle in zip(((0, 1), (0, 2), (1, 2)), angles, strict=True):
        step = np.eye(3)
        step[[i, j], [i, j]], step[i, j], step[j, i] = np.cos(angle), -np.sin(angle), np.sin(angle)
        turn = turn @ step
    affine = np.eye(4)
    affine[:3, :3] = turn[:, draw(st.permutations(range(3)))] * [
        draw(st.sampled_from([-1, 1])) * draw(st.floats(0.05, 20)) for _ in range(3)
    ]
    affine[:3, 3] = [draw(st.floats(-2000, 2000)) for _ in range(3)]
    return affine


@st.composite
def label_maps(draw):
    dtype = np.dtype(draw(st.sampled_from(LABELS)))
    shape = tuple(draw(hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=6)))
    most = {"b": 1, "f": 2 ** (np.finfo(dtype).nmant + 1) if dtype.kind == "f" else 0}.get(dtype.kind) or np.iinfo(
        dtype
    ).max
    least = draw(st.sampled_from([0, 0, 0, 0, -1])) if dtype.kind in "if" else 0
    values = st.integers(least, int(most)) | st.integers(0, 3)
    labels = np.array(draw(st.lists(values, min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))), object)
    if dtype.kind == "f" and draw(st.integers(0, 9)) == 0:
        labels[0] = draw(st.sampled_from([0.5, np.nan, np.inf]))
    return labels.astype(dtype).reshape(shape), draw(st.sampled_from("<>"))


@examples(150)
@given(label_maps(), st.sampled_from(SUFFIXES), affines())
def test_a_label_map_is_read_as_it_was_written_or_refused(fresh_folder, labels, suffix, affine):
    array, order = labels
    file = fresh_folder() / f"a{suffix}"
    whole = (
        array.dtype.kind != "f"
        or ((array == np.rint(array)) & (np.abs(array) < 2 ** (np.finfo(array.dtype).nmant + 1))).all()
    )
    fits = suffix != ".png" or (array.ndim == 2 and whole and array.max() < 2**16)
    array_of_order = array.astype(array.dtype.newbyteorder(order))
    error = refusal_of(write_label_map, file, array_of_order, affine if suffix in PLACED else None, case="c7")
    if error is not None:
        assert not (fits and whole and array.min() >= 0), error
        assert "case 'c7'" in str(error)
        assert error.file == str(file)
        assert not any(file.parent.iterdir())
        return
    assert fits
    assert whole
    assert array.min() >= 0
    if suffix == ".tif" and array.ndim == 3 and len(array) == 1:  # one page is a picture
        array = array[0]
    volume = read_volume(file, array.ndim, kind="label")
    np.testing.assert_array_equal(volume.array[0].astype(np.uint64), array.astype(np.uint64))
    assert volume.array.dtype == np.min_scalar_type(int(array.max()))
    if suffix in PLACED:
        # NIfTI keeps both forms in float32, of which the quaternion is the coarser.
        np.testing.assert_allclose(volume.affine, affine, rtol=1e-4, atol=1e-4 * np.abs(affine[:3]).max())


@examples(80)
@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]),
        hnp.array_shapes(min_dims=4, max_dims=4, min_side=1, max_side=4),
    ),
    st.sampled_from([".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".tif"]),
    affines(),
)
def test_a_volume_of_any_type_and_channels_is_read_as_it_was_written_or_refused(fresh_folder, array, suffix, affine):
    file = fresh_folder() / f"a{suffix}"
    error = refusal_of(write_volume, file, array, affine if suffix in PLACED else None)
    if error is not None:
        assert array.dtype.kind == "f", error
        assert not np.isfinite(array).all()
        return
    assume(suffix != ".tif" or array.shape[1] > 1)
    volume = read_volume(file, 3)
    np.testing.assert_array_equal(volume.array, array)
    assert volume.array.dtype == array.dtype
    if suffix in (".nii", ".nii.gz"):
        np.testing.assert_array_equal(np.asarray(nib.load(file).dataobj).squeeze(), np.moveaxis(array, 0, -1).squeeze())


# configs

KEYS = st.sampled_from(["epochs", "network", "loss", "steps", "seed"])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(-1, 1)
    | st.sampled_from(["text", "$1 + 1", "@epochs", ""])
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
CONFIGS = st.dictionaries(KEYS, TREES, min_size=1, max_size=5)


def merged(folder, *configs):
    files = []
    for number, config in enumerate(configs):
        files.append(str(folder / f"{number}.json"))
        (folder / f"{number}.json").write_text(json.dumps(config))
    return ConfigParser.load_config_files(files)


@examples(40)
@given(CONFIGS, CONFIGS, CONFIGS)
def test_of_overlays_the_later_wins_and_twice_is_once(fresh_folder, base, overlay, other):
    folder = fresh_folder()
    assert merged(folder, base, overlay) == base | overlay
    assert merged(folder, base, overlay, other) == base | overlay | other
    assert merged(folder, base, overlay, overlay) == merged(folder, base, overlay)
    deep = {f"top#{key}": value for key, value in overlay.items()}
    assert merged(folder, {"top": base}, deep) == {"top": base | overlay}


def unflattened(leaves):
    """Nested mappings of paths; a list has become a mapping of its places."""
    root = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = root
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return root


def as_mappings(node):
    """Lists that hold mappings or lists, as mappings of their places."""
    if isinstance(node, list) and any(isinstance(entry, dict | list) for entry in node):
        node = {str(place): entry for place, entry in enumerate(node)}
    return {key: as_mappings(entry) for key, entry in node.items()} if isinstance(node, dict) else node


@examples(60)
@given(CONFIGS)
def test_a_flattened_config_holds_all_of_it(config):
    leaves = flatten(config)
    assert unflattened(leaves) == as_mappings(config)
    assert flatten(unflattened(leaves)) == leaves
    assert not any(isinstance(leaf, dict) and leaf for leaf in leaves.values())


@examples(40)
@given(CONFIGS, st.text("abcdefghij", min_size=1, max_size=8), LEAVES)
def test_a_key_that_no_config_has_is_named_with_a_suggestion(config, key, value):
    assume(key not in config)
    assert [*unknown_keys(config, config)] == []
    (problem,) = unknown_keys({**config, key: value}, config)
    assert f"'{key}'" in problem.reason
    assert any(known in problem.remedy for known in config)
