import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.interpolate import CubicSpline
from scipy.ndimage import map_coordinates

from pipeline.errors import InputError
from pipeline.transforms import rand_elastic
from pipeline.transforms.rand_elastic import RandElasticd, affine_matrix, resample, source_grid, spline_matrix

EVERYTHING = {"rotation": 180.0, "scaling": (0.7, 1.4), "flip_prob": 0.5, "sigma": 4.0}
SCIPY_MODES = {"reflection": "mirror", "border": "nearest", "zeros": "grid-constant"}


def picture(*shape, channels=1, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((channels, *shape), dtype=np.float32))


def pixel_numbers(*shape, dtype=torch.int64):
    return torch.arange(int(np.prod(shape))).reshape(1, *shape).to(dtype)


def warp(image, matrix, displacements=None, mode="linear"):
    shape = image.shape[1:]
    field = source_grid(shape, [0] * len(shape), shape, matrix, displacements)
    return resample({"x": image}, field, mode, "reflection")["x"]


def source_positions(transform, shape):
    """The class's formula, pixel by pixel in float64: (d, *size)."""
    pixels = [np.arange(first, first + size) for first, size in zip(transform.start, transform.size, strict=True)]
    u = transform.displacements
    for axis, (n, wanted) in enumerate(zip(shape, pixels, strict=True)):
        ends = min(0, wanted[0]), max(n - 1, wanted[-1])
        u = CubicSpline(np.linspace(*ends, u.shape[axis]), u, axis=axis, bc_type="natural")(wanted)
    centre = np.array([(wanted[0] + wanted[-1]) / 2 for wanted in pixels])
    p = np.stack(np.meshgrid(*pixels, indexing="ij"), axis=-1)
    return np.moveaxis(centre + np.einsum("ij,...j->...i", transform.matrix, p - centre) + u, -1, 0)


@pytest.mark.parametrize("options", [{"prob": 0.0, **EVERYTHING}, {"prob": 1.0, "sigma": 0.0}])
@pytest.mark.parametrize("shape", [(17, 12), (7, 9, 6)])
def test_identity_is_exact(options, shape):
    data = {"image": picture(*shape), "label": pixel_numbers(*shape)}
    result = RandElasticd(("image", "label"), mode=("linear", "nearest"), **options)(data)
    for key, value in data.items():
        assert torch.equal(result[key], value)
        assert result[key].data_ptr() != value.data_ptr()


@pytest.mark.parametrize(("shape", "size"), [((17, 12), (5, 12)), ((7, 9, 6), (3, 8, 2))])
def test_crop_without_deformation_is_a_slice_at_any_position(shape, size):
    image, transform = pixel_numbers(*shape), RandElasticd("image", size, prob=0.0).set_random_state(0)
    starts = []
    for _ in range(200):
        result = transform({"image": image})["image"]
        window = tuple(slice(s, s + n) for s, n in zip(transform.start, size, strict=True))
        assert torch.equal(result, image[(slice(None), *window)])
        starts.append(transform.start)
    assert np.array_equal(np.min(starts, 0), np.zeros(len(shape)))
    assert np.array_equal(np.max(starts, 0), np.subtract(shape, size))


def test_roi_size_of_minus_one_is_the_whole_axis():
    assert RandElasticd("image", (4, -1))({"image": picture(9, 7)})["image"].shape == (1, 4, 7)
    assert RandElasticd("image", 5)({"image": picture(9, 7, 6)})["image"].shape == (1, 5, 5, 5)


@pytest.mark.parametrize(
    ("padding_mode", "numpy_mode"), [("reflection", "reflect"), ("border", "edge"), ("zeros", "constant")]
)
def test_crop_larger_than_the_image_is_padded_on_both_sides(padding_mode, numpy_mode):
    image = picture(3, 8, channels=2)
    result = RandElasticd("image", (10, 8), prob=0.0, padding_mode=padding_mode)({"image": image})["image"]
    assert np.array_equal(result, np.pad(image, ((0, 0), (4, 3), (0, 0)), numpy_mode))


@pytest.mark.parametrize(
    ("padding_mode", "numpy_mode"), [("reflection", "reflect"), ("border", "edge"), ("zeros", "constant")]
)
@pytest.mark.parametrize("size", [(6, 5), (10, 6)])
def test_crops_may_reach_beyond_the_image(size, padding_mode, numpy_mode):
    image, by = picture(9, 7, channels=2), np.array([2, 1])
    padded = np.pad(image, ((0, 0), (2, 2), (1, 1)), numpy_mode)
    transform = RandElasticd("image", size, prob=0.0, padding_mode=padding_mode, beyond=by.tolist())
    transform.set_random_state(0)
    starts = []
    for _ in range(200):
        result = transform({"image": image})["image"]
        row, column = np.add(transform.start, by)
        assert np.array_equal(result, padded[:, row : row + size[0], column : column + size[1]])
        starts.append(transform.start)
    # From 2 before the image's first row to where the last row is 2 beyond the image's last.
    assert np.array_equal(np.min(starts, 0), -by)
    assert np.array_equal(np.max(starts, 0), np.array([9, 7]) + by - size)


def test_a_deformed_crop_beyond_the_image_is_read_at_the_formulas_positions():
    image = picture(9, 7)
    transform = RandElasticd("image", (8, 6), beyond=4, **EVERYTHING).set_random_state(1)
    before = after = 0
    for _ in range(20):
        result = transform({"image": image})["image"][0]
        before += transform.start[0] < 0
        after += transform.start[0] + 8 > 9
        expected = map_coordinates(image[0], source_positions(transform, (9, 7)), order=1, mode="mirror")
        np.testing.assert_allclose(result, expected, atol=2e-4)
    assert before
    assert after


def test_a_balanced_crop_may_reach_beyond_the_image_too():
    label = torch.zeros(1, 9, 9, dtype=torch.uint8)
    label[0, 0, 8] = 1
    options = {"mode": "nearest", "prob": 0.0, "balance_key": "label", "balance_prob": 1.0}
    for by, start in ((0, (0, 4)), (1, (-1, 5)), (3, (-2, 6))):  # the voxel is the third of five where that may be
        transform = RandElasticd("label", 5, beyond=by, **options)
        transform({"label": label})
        assert transform.start == start


@pytest.mark.parametrize("flip_prob", [1.0, (1.0, 0.0), (0.0, 1.0)])
def test_flips_are_exact(flip_prob):
    image = picture(6, 7)
    result = RandElasticd("image", sigma=0.0, flip_prob=flip_prob)({"image": image})["image"]
    axes = [axis for axis, p in enumerate(np.broadcast_to(flip_prob, 2), start=1) if p]
    assert np.array_equal(result, np.flip(image.numpy(), axes))


@pytest.mark.parametrize("size", [8, 9])
def test_ninety_degrees_are_rot90(size):
    image = picture(size, size)
    turned = np.rot90(image, axes=(1, 2))
    np.testing.assert_allclose(warp(image, affine_matrix([90], 1.0, [False, False])), turned, atol=1e-5)
    assert np.array_equal(warp(image, affine_matrix([90], 1.0, [False, False]), mode="nearest"), turned)
    flipped = affine_matrix([90], 1.0, [True, False])  # turn, and flip the result
    assert np.array_equal(warp(image, flipped, mode="nearest"), np.flip(turned, 1))


@pytest.mark.parametrize(("angles", "axes"), [((90, 0, 0), (2, 3)), ((0, 90, 0), (1, 3)), ((0, 0, 90), (1, 2))])
def test_ninety_degrees_in_3d(angles, axes):
    volume = picture(7, 7, 7)
    assert np.array_equal(
        warp(volume, affine_matrix(angles, 1.0, [False] * 3), mode="nearest"), np.rot90(volume, axes=axes)
    )


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_equal_displacements_are_a_shift(mode):
    image = picture(21, 30)
    shift = np.broadcast_to([3.0, -5.0], (3, 3, 2))
    result = warp(image, np.eye(2), shift, mode)  # result(y, x) = image(y + 3, x - 5)
    np.testing.assert_allclose(result[:, :-3, 5:], image[:, 3:, :-5], atol=1e-5)
    np.testing.assert_allclose(result[:, -3:, 5:], image[:, -4:-1].flip(1)[..., :-5], atol=1e-5)  # mirrored below


def test_magnification_of_two_halves_the_distance_from_the_centre():
    ramp = torch.arange(9.0).expand(1, 9, 9)
    assert warp(ramp, affine_matrix([0], 2.0, [False, False]))[0, 0].tolist() == pytest.approx(
        [2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0], abs=1e-5
    )


def test_rotation_is_rigid_in_physical_space():
    spacing = np.array([3.0, 1.0, 0.5])
    matrix = affine_matrix([20, 30, 40], 1.0, [False, True, False], spacing)
    physical = np.diag(spacing) @ matrix @ np.diag(1 / spacing)
    np.testing.assert_allclose(physical @ physical.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(physical) == pytest.approx(-1)


@pytest.mark.parametrize("nodes", [2, 3, 5])
def test_spline_passes_through_its_nodes_and_keeps_lines_straight(nodes):
    values = np.random.default_rng(0).normal(size=nodes).astype(np.float32)
    weights = spline_matrix(nodes, 61).numpy()
    np.testing.assert_allclose((weights @ values)[:: 60 // (nodes - 1)], values, atol=1e-5)
    np.testing.assert_allclose(weights @ np.linspace(0, 60, nodes), np.arange(61), atol=1e-4)


@pytest.mark.parametrize("sigma", [10.0, (2.0, 5.0)])
def test_displacements_at_the_nodes_have_the_standard_deviation_sigma(sigma):
    shape = (65, 33)
    transform = RandElasticd("image", sigma=sigma).set_random_state(0)
    found = []
    for _ in range(200):
        transform.randomize({}, shape)
        field = source_grid(shape, transform.start, transform.size, transform.matrix, transform.displacements, "zeros")
        positions = (field.numpy()[..., ::-1] + 1) / 2 * (np.array(shape) - 1)
        found.append(positions[::32, ::16] - np.stack(np.meshgrid([0, 32, 64], [0, 16, 32], indexing="ij"), axis=-1))
    found = np.reshape(found, (-1, 2))
    # 1,800 draws per axis: the standard deviation is known to 1/sqrt(3600) = 1.7%, the mean to 2.4% of sigma.
    np.testing.assert_allclose(found.std(0), np.broadcast_to(sigma, 2), rtol=0.07)
    np.testing.assert_allclose(found.mean(0) / np.broadcast_to(sigma, 2), 0, atol=0.1)


def test_scaling_is_log_uniform_and_rotation_uniform():
    transform = RandElasticd("image", sigma=0.0, scaling=(0.5, 2.0), rotation=30.0).set_random_state(0)
    magnifications, angles = [], []
    for _ in range(1000):
        transform.randomize({}, (8, 8))
        magnifications.append(np.linalg.det(transform.matrix) ** -0.5)
        angles.append(np.rad2deg(np.arctan2(transform.matrix[0, 1], transform.matrix[0, 0])))
    assert np.percentile(np.log2(magnifications), [0, 25, 50, 75, 100]) == pytest.approx(
        [-1, -0.5, 0, 0.5, 1], abs=0.12
    )
    assert np.percentile(angles, [0, 25, 50, 75, 100]) == pytest.approx([-30, -15, 0, 15, 30], abs=3)


@pytest.mark.parametrize("padding_mode", ["reflection", "border", "zeros"])
@pytest.mark.parametrize(
    ("shape", "size", "grid"),
    [
        ((37, 52), (37, 52), 3),
        ((37, 52), (20, 31), (4, 3)),
        ((15, 40), (22, 40), 3),
        ((13, 18, 11), (9, 18, 14), (2, 4, 3)),
    ],
)
def test_agrees_with_scipy_at_the_same_positions(shape, size, grid, padding_mode):
    data = {"image": picture(*shape, channels=2), "label": pixel_numbers(*shape) + 1}
    transform = RandElasticd(
        ("image", "label"), size, ("linear", "nearest"), grid=grid, padding_mode=padding_mode, **EVERYTHING
    )
    for seed in range(5):
        result = transform.set_random_state(seed)(data)
        positions = source_positions(transform, shape)
        for read, channel in zip(result["image"], data["image"], strict=True):
            expected = map_coordinates(channel, positions, order=1, mode=SCIPY_MODES[padding_mode])
            np.testing.assert_allclose(read, expected, atol=2e-4)
        expected = map_coordinates(data["label"][0], positions, order=0, mode=SCIPY_MODES[padding_mode])
        clear = np.all(np.abs(positions % 1 - 0.5) > 1e-3, axis=0)  # not half-way between two pixels
        assert clear.mean() > 0.99
        assert np.array_equal(result["label"][0].numpy()[clear], expected[clear])


@pytest.mark.parametrize("shape", [(40, 33), (17, 21, 15)])
def test_image_and_label_stay_aligned(shape):
    coordinates = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing="ij")).float()
    data = {"image": coordinates, "label": pixel_numbers(*shape)}
    result = RandElasticd(("image", "label"), 14, ("linear", "nearest"), **EVERYTHING).set_random_state(1)(data)
    read = result["image"].numpy()  # the position that each pixel was read from
    clear = np.all(np.abs(read % 1 - 0.5) > 1e-3, axis=0)
    expected = np.ravel_multi_index(tuple(np.rint(read).astype(int)), shape)
    assert np.array_equal(result["label"][0].numpy()[clear], expected[clear])


@pytest.mark.parametrize(
    ("dtype", "ids"),
    [
        (torch.int64, [0, 2**24 + 1, 2**40 + 1, 2**62 + 3, -7]),
        (torch.int32, [0, 2**24 + 1, 2**31 - 1, 0x7F800001, -1]),  # the last two are NaN as float32
        (torch.float64, [0.0, 1 / 3, 2.0**40 + 1]),
        (torch.float32, [0.0, 1 / 3, 2.0**24 - 1]),
        (torch.uint8, [0, 1, 255]),
        (torch.int16, [0, -32768, 32767]),
        (torch.bool, [False, True]),
    ],
)
@pytest.mark.parametrize("shape", [(24, 31), (9, 12, 10)])
def test_ids_stay_exact_and_none_is_new(dtype, ids, shape):
    ids = torch.tensor(ids, dtype=dtype)
    which = torch.randint(len(ids), (2, *shape), generator=torch.Generator().manual_seed(0))
    data = {"label": ids[which], "which": which.to(torch.uint8)}
    result = RandElasticd(("label", "which"), mode="nearest", **EVERYTHING).set_random_state(0)(data)
    assert result["label"].dtype == dtype
    assert len(result["which"].unique()) == len(ids)
    assert torch.equal(result["label"], ids[result["which"].long()])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float16, torch.float64])
def test_linear_keeps_the_dtype_and_rounds_integers(dtype):
    image = picture(20, 20) * 200
    transform = RandElasticd(("image", "exact"), **EVERYTHING).set_random_state(0)
    result = transform({"image": image.to(dtype), "exact": image.to(dtype).float()})
    assert result["image"].dtype == dtype
    expected = result["exact"] if dtype.is_floating_point else result["exact"].round()
    assert torch.equal(result["image"], expected.to(dtype))


def test_same_seed_same_result_and_no_global_randomness():
    data = {"image": picture(30, 30), "label": pixel_numbers(30, 30)}
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002

    def run(seed):
        transform = RandElasticd(("image", "label"), 20, ("linear", "nearest"), **EVERYTHING).set_random_state(seed)
        return [transform(data) for _ in range(3)]

    first, again, other = run(7), run(7), run(8)
    for key in data:
        assert all(torch.equal(a[key], b[key]) for a, b in zip(first, again, strict=True))
        assert not any(torch.equal(a[key], b[key]) for a, b in zip(first, other, strict=True))
        assert not torch.equal(first[0][key], first[1][key])
    assert np.array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


def test_probability_of_the_deformation():
    transform = RandElasticd("image", prob=0.3).set_random_state(0)
    image = {"image": picture(8, 8)}
    changed = sum(not torch.equal(transform(image)["image"], image["image"]) for _ in range(400))
    assert changed / 400 == pytest.approx(0.3, abs=0.07)


def test_accepts_meta_tensors_and_arrays_and_returns_plain_tensors():
    image = picture(12, 12)
    for prob in (0.0, 1.0):
        data = {"image": MetaTensor(image), "array": image.numpy(), "name": "a"}
        result = RandElasticd(("image", "array"), prob=prob).set_random_state(0)(data)
        assert type(result["image"]) is type(result["array"]) is torch.Tensor
        assert torch.equal(result["image"], result["array"])
        assert result["name"] == "a"
        assert isinstance(data["image"], MetaTensor)


def test_missing_keys():
    data = {"image": picture(12, 12)}
    transform = RandElasticd(("weight", "image"), 6, ("nearest", "linear"), allow_missing_keys=True)
    assert transform(data)["image"].shape == (1, 6, 6)
    assert transform({"other": 1}) == {"other": 1}
    with pytest.raises(KeyError):
        RandElasticd(("weight", "image"))(data)


def test_an_axis_of_one_pixel():
    volume = picture(1, 20, 16)
    result = RandElasticd("image", grid=(2, 3, 3), sigma=(0.0, 3.0, 3.0), rotation=(30, 0, 0))({"image": volume})[
        "image"
    ]
    assert result.shape == volume.shape
    assert not torch.equal(result, volume)
    assert result.min() >= volume.min()


def few_voxels(*shape):
    """Class 1 is frequent, class 2 and 5 are one voxel each, in two corners."""
    label = torch.zeros(1, *shape, dtype=torch.uint8)
    label[0, shape[0] // 2] = 1
    label[(0, *(0,) * len(shape))] = 2
    label[(0, *(-1,) * len(shape))] = 5
    return label


@pytest.mark.parametrize("shape", [(60, 50), (20, 25, 18)])
def test_balanced_crops_show_every_class_equally_often(shape):
    label = few_voxels(*shape)
    transform = RandElasticd("label", 5, "nearest", prob=0.0, balance_key="label", balance_prob=1.0).set_random_state(0)
    crops = [transform({"label": label})["label"] for _ in range(300)]
    for value in (1, 2, 5):
        shown = sum(bool((crop == value).any()) for crop in crops)
        assert shown / 300 == pytest.approx(1 / 3, abs=0.09)
    assert all(crop.shape == (1, *(5,) * len(shape)) for crop in crops)


def test_balanced_crop_is_centred_on_the_voxel_where_the_image_allows():
    label = torch.zeros(1, 40, 40, dtype=torch.int64)
    label[0, 11, 23] = 9
    transform = RandElasticd("image", 7, prob=0.0, balance_key="label", balance_prob=1.0)
    transform({"image": picture(40, 40), "label": MetaTensor(label)})
    assert transform.start == (8, 20)


def test_balanced_crops_of_an_empty_label_are_drawn_anywhere():
    label = torch.zeros(1, 30, 30)
    transform = RandElasticd("label", 5, "nearest", prob=0.0, balance_key="label", balance_prob=1.0).set_random_state(0)
    starts = set()
    for _ in range(50):
        transform({"label": label})
        starts.add(transform.start)
    assert len(starts) > 30


def test_large_labels_are_searched_on_a_sub_lattice_whose_phase_varies(monkeypatch):
    monkeypatch.setattr(rand_elastic, "EXAMINED", 100)
    label = few_voxels(60, 50)  # 3,000 pixels: every 6th of each axis is looked at
    transform = RandElasticd("label", 5, "nearest", prob=0.0, balance_key="label", balance_prob=1.0).set_random_state(0)
    crops = [transform({"label": label})["label"] for _ in range(600)]
    for value in (2, 5):
        assert any(bool((crop == value).any()) for crop in crops)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mode": "bilinear"}, "mode"),
        ({"padding_mode": "wrap"}, "padding_mode"),
        ({"grid": 1}, "grid"),
        ({"scaling": (1.2, 0.8)}, "scaling"),
        ({"scaling": (0.0, 1.0)}, "scaling"),
        ({"balance_prob": 0.5}, "balance_prob"),
    ],
)
def test_wrong_options_are_input_errors(options, match):
    with pytest.raises(InputError, match=match):
        RandElasticd("image", **options)


def test_different_shapes_are_an_input_error():
    with pytest.raises(InputError, match=r"image \(1, 8, 8\), label \(1, 8, 9\)"):
        RandElasticd(("image", "label"))({"image": picture(8, 8), "label": picture(8, 9)})
