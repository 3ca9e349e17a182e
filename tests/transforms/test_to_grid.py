"""Volumes go to the network's grid and come back: each voxel keeps its place in the world."""

import itertools
from copy import deepcopy

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from monai.utils import MetaKeys
from scipy import ndimage

from pipeline.errors import InputError
from pipeline.transforms.to_grid import FromGridd, ToGridd, described

ORIENTATIONS = ["RAS", "LAS", "LPI", "PSR", "SRA", "AIL"]


def volume(array, affine):
    array = np.atleast_1d(array)
    meta = {MetaKeys.ORIGINAL_AFFINE: torch.from_numpy(affine), MetaKeys.SPATIAL_SHAPE: np.asarray(array.shape[1:])}
    return MetaTensor(torch.from_numpy(array), affine=torch.from_numpy(affine), meta=meta)


def affine_of(orientation, spacing=(1.0, 1.0, 1.0), tilt=0.0, origin=(5.0, -7.0, 11.0)):
    """An affine whose axes point along `orientation`, tilted a little about the world's first axis."""
    target = nib.orientations.axcodes2ornt(tuple(orientation))
    axes = np.zeros((3, 3))
    for column, (axis, sign) in enumerate(target):
        axes[int(axis), column] = sign * spacing[column]
    c, s = np.cos(tilt), np.sin(tilt)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ axes
    affine[:3, 3] = origin
    return affine


def places(tensor):
    """The world position of every voxel, (X, Y, Z, 3)."""
    affine = np.asarray(tensor.affine)
    return np.moveaxis(np.indices(tensor.shape[1:]), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize(("given", "wanted"), [*itertools.product(ORIENTATIONS, ["RAS", "PSR"])])
@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_turning_moves_no_value_in_the_world(given, wanted, tilt):
    array = np.random.default_rng(0).normal(size=(2, 4, 5, 6))
    image = volume(array, affine_of(given, (1.0, 2.0, 3.0), tilt))
    turned = ToGridd("image", axcodes=wanted)({"image": image})["image"]
    assert "".join(nib.aff2axcodes(np.asarray(turned.affine))) == wanted
    before = {
        tuple(place.round(6) + 0.0): value
        for place, value in zip(places(image).reshape(-1, 3), flat(image), strict=True)
    }
    after = {
        tuple(place.round(6) + 0.0): value
        for place, value in zip(places(turned).reshape(-1, 3), flat(turned), strict=True)
    }
    assert before == after
    back = FromGridd("pred")({"image": turned, "pred": turned.as_tensor()})["pred"]
    assert torch.equal(back.as_tensor(), image.as_tensor())
    assert np.allclose(back.affine, image.affine)


def flat(tensor):
    return [tuple(value) for value in np.moveaxis(np.asarray(tensor), 0, -1).reshape(-1, len(tensor))]


def test_the_field_of_view_is_kept_and_the_spacing_is_the_nearest_that_fits():
    image = volume(np.zeros((1, 10, 10, 7)), affine_of("RAS", (1.0, 1.0, 3.0)))
    resampled = ToGridd("image", spacing=(2.0, None, 2.0))({"image": image})["image"]
    # 10 mm become 5 voxels; 21 mm become round(10.5) = 10, of 2.1 mm.
    assert resampled.shape == (1, 5, 10, 10)
    assert np.allclose(np.linalg.norm(np.asarray(resampled.affine)[:3, :3], axis=0), (2.0, 1.0, 2.1))
    edge = np.asarray(image.affine) @ [-0.5, -0.5, -0.5, 1]
    assert np.allclose(np.asarray(resampled.affine) @ [-0.5, -0.5, -0.5, 1], edge)
    far = np.asarray(image.affine) @ [9.5, 9.5, 6.5, 1]
    assert np.allclose(np.asarray(resampled.affine) @ [4.5, 9.5, 9.5, 1], far)


def test_values_stand_where_the_affine_says():
    """A linear function of the world position is reproduced exactly inside, by any linear interpolation."""
    image = volume(np.zeros((1, 12, 10, 8)), affine_of("LPS", (1.0, 1.5, 3.0), 0.2))
    slope = np.array([0.3, -0.7, 0.2])
    image = volume((places(image) @ slope)[None], np.asarray(image.affine))
    resampled = ToGridd("image", axcodes="RAS", spacing=1.2)({"image": image})["image"]
    inside = (slice(2, -2),) * 3
    assert np.allclose(np.asarray(resampled)[0][inside], (places(resampled) @ slope)[inside])
    back = FromGridd("pred")({"image": resampled, "pred": resampled})["pred"]
    assert np.allclose(np.asarray(back)[0][inside], np.asarray(image)[0][inside])


def test_labels_are_copied_and_keep_their_type():
    labels = np.random.default_rng(0).integers(0, 2**40, (1, 6, 6, 6))
    label = volume(labels, affine_of("RAS"))
    resampled = ToGridd("label", spacing=0.7, mode="nearest")({"label": label})["label"]
    assert resampled.dtype == torch.int64
    assert set(np.unique(resampled)) == set(np.unique(labels))


@pytest.mark.parametrize("spacing", [0.6, 7.5])
def test_a_mask_survives_the_way_there_and_back(spacing):
    """A ball of 40 mm on 1.5 mm voxels, through finer and through far coarser ones."""
    affine = affine_of("PSR", (1.5, 1.5, 1.5), 0.25)
    distance = np.linalg.norm(np.indices((40, 40, 40)) - 19.5, axis=0)
    image = volume(np.clip(13.3 - distance, -3, 3)[None], affine)
    there = ToGridd("image", spacing=spacing)({"image": image})
    back = FromGridd("image")({**there, "image": there["image"]})["image"]
    mask, truth = np.asarray(back)[0] > 0, np.asarray(image)[0] > 0
    overlap = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
    assert overlap > (0.99 if spacing < 1.5 else 0.93)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_planes_that_come_in_portions_give_the_same(orientation, mode):
    image = volume(np.random.default_rng(0).normal(size=(1, 9, 8, 7)), affine_of(orientation, (1.0, 1.5, 3.0)))
    there = ToGridd("image", spacing=1.7)({"image": image})["image"]
    back = FromGridd(["pred", "other"], mode=[mode, "linear"])
    pred = torch.randn(2, *there.shape[1:])
    whole = back({"image": there, "pred": pred, "other": pred})["pred"]
    resampler = back.resampler(there, "pred")
    turned = [
        planes for first in range(0, pred.shape[1], 2) for _, _, planes in resampler.push(pred[:, first : first + 2])
    ]
    turned = torch.cat(turned, dim=1)
    assert turned.shape[1:] == back.turned_size(there)
    result = back.placed(turned, there)
    assert torch.equal(result.as_tensor(), whole.as_tensor())
    assert torch.equal(result.affine, whole.affine)
    assert np.allclose(result.affine, image.affine)
    assert result.meta.keys() == whole.meta.keys()


def test_it_agrees_with_scipy_on_where_voxels_are():
    rng = np.random.default_rng(0)
    array = ndimage.gaussian_filter(rng.normal(size=(9, 8, 7)), 1)
    resampled = ToGridd("image", spacing=(1.0, 1.0, 0.5))({"image": volume(array[None], affine_of("RAS"))})["image"]
    expected = ndimage.zoom(array, (1, 1, 2), order=1, mode="nearest", grid_mode=True)
    assert np.allclose(np.asarray(resampled)[0], expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"axcodes": "RAX"}, "axcodes is 'RAX'"),
        ({"axcodes": "RLS"}, "axcodes is 'RLS'"),
        ({"axcodes": "RA"}, "axcodes is 'RA'"),
        ({"spacing": 0.0}, "spacing is 0.0"),
        ({"spacing": (1.0, 1.0, -2.0)}, "spacing is"),
        ({"mode": "cubic"}, "mode is"),
    ],
)
def test_arguments_that_make_no_grid(arguments, message):
    with pytest.raises(InputError, match=message):
        ToGridd("image", **arguments)


def test_a_missing_key_is_skipped_only_if_allowed():
    assert ToGridd("label", allow_missing_keys=True)({}) == {}
    with pytest.raises(KeyError):
        ToGridd("label")({})


def test_metadata_say_the_grid_of_every_image_that_goes_in():
    metadata = {"name": "a", "network_data_format": {"inputs": {"image": {"type": "image"}}, "outputs": {"pred": {}}}}
    given = deepcopy(metadata)
    entry = {"type": "image", "axcodes": "LPS", "spacing": [1.0, None, 2.0]}
    expected = {"name": "a", "network_data_format": {"inputs": {"image": entry}, "outputs": {"pred": {}}}}
    assert described(metadata, "LPS", (1.0, None, 2.0)) == expected
    assert metadata == given


def test_the_number_of_voxels_is_known_before_the_voxels_are():
    affine = np.diag([-2.0, 1.0, 3.0, 1.0])[:, [2, 0, 1, 3]]  # axes: up, to the left, to the front
    volume = MetaTensor(torch.zeros(1, 4, 6, 10), affine=torch.from_numpy(affine))
    grid = ToGridd("image", "RAS", (1.0, 1.0, 1.5))
    # 6 voxels of 2 mm to 12, 10 of 1 mm stay, 4 of 3 mm to 8 of 1.5 mm.
    assert grid.voxels_of(affine, (4, 6, 10)) == 12 * 10 * 8
    assert grid({"image": volume})["image"].shape == (1, 12, 10, 8)


GRIDS = {  # the file's voxels and mm, and the network's mm
    "finer and coarser": ((13, 16, 9), (0.8, 0.8, 2.0), (1.0, 1.0, 1.5)),
    "anisotropic": ((21, 20, 5), (0.5, 0.7, 5.0), (1.1, 0.9, 2.0)),
    "one voxel thick": ((12, 1, 17), (1.0, 4.0, 0.6), (1.3, 4.0, 0.9)),
    "to one voxel": ((12, 4, 11), (1.0, 0.5, 0.6), (0.7, 2.0, 0.9)),
    "as it is": ((6, 7, 8), (1.0, 2.0, 3.0), (None, None, None)),
}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("orientation", "tilt"), [("RAS", 0.0), ("LPS", 0.0), ("PSR", 0.3), ("AIL", -0.7)])
def test_it_is_the_resampling_of_monai_on_the_same_grid(grid, orientation, tilt):
    size, spacing, wanted = GRIDS[grid]
    image = volume(np.random.default_rng(0).normal(size=(2, *size)), affine_of(orientation, spacing, tilt))
    ours = ToGridd("image", axcodes="RAS", spacing=wanted)({"image": image})["image"]
    # MONAI's own resampling, point by point by the two affines, in float64.
    sample = SpatialResample(mode="bilinear", padding_mode="border", align_corners=False, dtype=torch.float64)
    theirs = sample(image, dst_affine=ours.affine, spatial_size=ours.shape[1:])
    assert np.allclose(theirs.affine, ours.affine)
    torch.testing.assert_close(ours.as_tensor().float(), theirs.as_tensor(), rtol=1e-5, atol=1e-5)
    back = FromGridd("pred")({"image": ours, "pred": ours.as_tensor()})["pred"]
    theirs = sample(ours, dst_affine=image.affine, spatial_size=size)
    torch.testing.assert_close(back.as_tensor().float(), theirs.as_tensor(), rtol=1e-5, atol=1e-5)
