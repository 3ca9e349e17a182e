"""Volumes as the page gets them: turned, in 8 bits, small, and with every voxel where it was."""

import base64
import zlib

import nibabel as nib
import numpy as np
import pytest

from pipeline.pages.viewer import ViewerVolume, viewer

SHAPE = (6, 5, 4)


def volume(shape=SHAPE, affine=None, **options):
    """A ramp along the first axis, whose truth is one voxel and whose prediction is the one beside it."""
    image = np.broadcast_to(np.linspace(-100, 300, shape[0])[:, None, None], shape)
    truth, prediction = np.zeros((2, *shape), np.uint8)
    truth[1, 2, 3], prediction[2, 2, 3] = 2, 1
    return ViewerVolume.of("a case", image, truth, prediction, affine, 0.5, **options)


def noise(shape, box):
    """A volume that hardly packs, with foreground in a box."""
    image = np.random.default_rng(0).normal(size=shape)
    labels = np.zeros(shape, np.uint8)
    labels[box] = 1
    return ViewerVolume.of("noise", image, labels, labels, np.diag([0.5, 0.5, 2, 1]))


def unpacked(packed):
    voxels = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), np.uint8)
    return [part.reshape(packed["shape"], order="F") for part in np.split(voxels, 3)]


def test_what_is_packed_comes_back():
    packed = volume().packed()
    image, truth, prediction = unpacked(packed)
    assert packed["shape"] == list(SHAPE)
    assert (image[0].max(), image[5].min()) == (0, 255)
    low, high = packed["window"]
    assert (low, high) == (-100, 300)  # each of the six values is a sixth of the voxels, far more than half a percent
    # The third of six is -100 + 2 * 80; 256 levels are 1.6 apart.
    assert low + image[2, 0, 0] / 255 * (high - low) == pytest.approx(60, abs=1)
    assert np.argwhere(truth).tolist() == [[1, 2, 3]]
    assert np.argwhere(prediction).tolist() == [[2, 2, 3]]
    assert (truth.max(), prediction.max()) == (2, 1)
    assert packed["affine"] is None
    assert packed["changes"] == ""


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PSR", "SRA", "RPI"])
def test_every_orientation_shows_the_same_patient(axcodes):
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = -5, 6, 7
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(axcodes))
    )
    given = volume(affine=affine)
    turned = [nib.apply_orientation(a, turn) for a in (given.image, given.truth, given.prediction)]
    found = ViewerVolume.of("a case", *turned, affine @ nib.orientations.inv_ornt_aff(turn, SHAPE), 0.5)
    np.testing.assert_array_equal(found.truth, given.truth)
    np.testing.assert_array_equal(found.prediction, given.prediction)
    np.testing.assert_allclose(found.affine, affine)
    assert found.spacing == pytest.approx((2, 3, 4))


def test_a_volume_that_packs_badly_is_cropped_around_its_foreground_first():
    given = noise((60, 60, 30), np.s_[20:30, 40:50, 10:20])
    packed = given.packed(60_000)
    _, truth, _ = unpacked(packed)
    assert len(packed["data"]) <= 60_000
    assert packed["changes"] == "cropped around the foreground"
    assert truth.sum() == 1000  # all of it, at full resolution
    assert packed["spacing"] == pytest.approx((0.5, 0.5, 2))
    affine, corner = np.array(packed["affine"]), np.argwhere(truth)[0]
    np.testing.assert_allclose(affine[:, :3] @ corner + affine[:, 3], [10, 20, 20])  # voxel (20, 40, 10)


def test_what_is_still_too_large_is_drawn_coarser_along_its_finest_axes():
    given = noise((60, 60, 30), np.s_[:, :, :])
    packed = given.packed(40_000)
    image, truth, _ = unpacked(packed)
    assert 10_000 < len(packed["data"]) <= 40_000
    assert packed["changes"].endswith("voxels drawn as one")
    assert packed["spacing"][2] == pytest.approx(2)  # 0.5 mm becomes 1, 1.5, ... before 2 mm becomes 4
    assert packed["spacing"][0] > 0.5
    assert truth.all()
    assert image.std() < given.image.std()  # means of blocks


def test_a_block_is_the_mean_of_its_voxels_and_lies_in_their_middle():
    image = np.zeros((4, 4, 4))
    image[:2, :2, :2] = 255
    image[0, 0, 0] = -255 * 7
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1, 1, 1], labels[0, 0, 0] = 3, 1
    given = ViewerVolume("a", None, image.clip(0).astype(np.uint8), labels, labels, np.eye(4), (0, 255))
    found = given.fitted(8)
    assert found.image.shape == (2, 2, 2)
    assert found.image.ravel().tolist() == [223, *[0] * 7]  # 7 * 255 / 8
    assert found.truth.ravel().tolist() == [3, *[0] * 7]  # the voxel at (1, 1, 1)
    np.testing.assert_allclose(found.affine @ [0, 0, 0, 1], [0.5, 0.5, 0.5, 1])
    assert found.changes == {"crop": "cropped around the foreground", "factors": "2 × 2 × 2 voxels drawn as one"}


def test_a_large_volume_takes_little_memory():
    found = noise((100, 100, 50), np.s_[40:60, 40:60, 20:30]).fitted(100_000)
    assert found.image.nbytes <= 100_000
    assert found.truth.sum() == 20 * 20 * 10


def test_without_foreground_the_whole_is_kept_and_drawn_coarser():
    empty = np.zeros((20, 20, 20), np.uint8)
    found = ViewerVolume.of("a", np.random.default_rng(0).normal(size=(20, 20, 20)), empty, empty, most_voxels=1000)
    assert found.image.shape == (10, 10, 10)
    assert "crop" not in found.changes


@pytest.mark.parametrize(
    ("image", "grey"),
    [
        (np.full(SHAPE, 7.0), {0}),
        (np.full(SHAPE, np.nan), {0}),
        (np.where(np.arange(120).reshape(SHAPE) == 0, 9, 1), {0, 255}),  # one bright voxel
    ],
)
def test_images_without_contrast(image, grey):
    nothing = np.zeros(SHAPE, np.uint8)
    assert set(np.unique(ViewerVolume.of("a", image, nothing, nothing).image)) == grey


def test_labels_beyond_8_bits_never_become_background():
    labels = np.arange(1, 1 + 120).reshape(SHAPE) * 51  # up to 6120, 255 and 256 times something among them
    assert ViewerVolume.of("a", labels, labels, labels).truth.min() >= 1


def test_the_bound_holds_for_a_volume_of_pure_noise():
    given = ViewerVolume.of("a", *np.random.default_rng(0).integers(0, 256, (3, 130, 120, 110)))
    assert len(given.packed()["data"]) <= 1_500_000


def test_names_are_escaped():
    evil = "<script>alert(1)</script>"
    text = viewer([ViewerVolume.of(evil, *np.zeros((3, *SHAPE)))], [evil])
    assert evil not in text
    assert text.count("<script") == 2
