"""Spacing, crop and levels, worked out by hand for the shapes that data have."""

import math
from itertools import product

import pytest
import torch
from planned_facts import facts

from pipeline.networks.unet import UNet
from pipeline.planning.geometry import (
    batch_size,
    channels,
    choose_geometry,
    coarse_axis,
    most_voxels,
    size_on_grid,
    target_spacing,
)


def test_the_spacing_is_the_median():
    assert target_spacing(facts(spacings=((1, 1, 1.2), (1, 1, 1.2), (2, 1, 1.0)))) == (1, 1, 1.2)


def test_along_a_coarse_axis_it_is_the_10th_percentile():
    thick = ((0.8, 0.8, 5.0),) * 9 + ((0.8, 0.8, 2.5),)
    assert target_spacing(facts(spacings=thick)) == (0.8, 0.8, 4.75)  # a tenth of the way from 2.5 to 5


def test_that_percentile_is_no_finer_than_the_other_axes():
    thick = ((1.0, 1.0, 5.0),) * 9 + ((1.0, 1.0, 0.1),) * 2
    assert target_spacing(facts(spacings=thick)) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("edges", "axis"), [((1, 1, 3), 2), ((1, 1, 2.9), None), ((4, 1, 1), 0), ((1, 4, 4), None), ((1.0, 1.5, 4.5), 2)]
)
def test_the_coarse_axis(edges, axis):
    assert coarse_axis(edges) == axis


def test_sizes_are_those_after_resampling():
    mixed = facts(shapes=((40, 60, 30), (20, 30, 30)), spacings=((1, 1, 1), (2, 2, 1)))
    assert size_on_grid(mixed, (1, 1, 2)) == (40, 60, 15)
    assert size_on_grid(facts(2), None) == (512, 512)


def test_a_small_volume_is_seen_as_a_whole():
    form = choose_geometry(facts(shapes=((35, 51, 35),) * 3, spacings=((1, 1, 1),) * 3))
    assert form.crop == (36, 52, 36)
    assert form.strides == ((2, 2, 2),) * 3
    assert form.lowest == (5, 7, 5)
    assert form.covers


def test_a_large_volume_is_cut_to_a_cube_in_mm():
    form = choose_geometry(facts(shapes=((512, 512, 100),) * 3, spacings=((0.8, 0.8, 3.2),) * 3))
    assert form.spacing == (0.8, 0.8, 3.2)
    edges = [length * edge for length, edge in zip(form.crop, form.spacing, strict=True)]
    assert max(edges) <= 1.3 * min(edges)
    assert form.crop[2] * 3 < form.crop[0]
    assert form.strides[0] == (2, 2, 1)  # from 0.8 to 1.6 mm, of which 3.2 is no more than twice as much
    assert form.strides[1] == (2, 2, 2)
    assert not form.covers


def test_what_is_short_along_one_axis_is_added_along_the_others():
    flat = choose_geometry(facts(shapes=((300, 300, 16),) * 3, spacings=((1, 1, 1),) * 3))
    cube = choose_geometry(facts(shapes=((300, 300, 300),) * 3, spacings=((1, 1, 1),) * 3))
    assert flat.crop[2] == 16
    assert flat.crop[0] > 1.5 * cube.crop[0]


def test_few_slices_make_a_network_of_slices():
    form = choose_geometry(facts(shapes=((256, 256, 7),) * 3, spacings=((1, 1, 8),) * 3))
    assert form.flat_axis == 2
    assert form.crop[2] == 1
    assert {step[2] for step in form.strides} == {1}


def test_pictures():
    form = choose_geometry(facts(2))
    assert form.crop == (256, 256)
    assert form.strides == ((2, 2),) * 4
    assert form.lowest == (16, 16)
    assert choose_geometry(facts(2, device="cuda", memory=2**36)).strides == ((2, 2),) * 5
    assert choose_geometry(facts(2, shapes=((100, 60),) * 3)).crop == (100, 60)


def test_tiny_images_keep_one_level_below():
    form = choose_geometry(facts(2, shapes=((9, 9),) * 3))
    assert form.strides == ((1, 1),)
    assert form.crop == (12, 12)


def test_a_gpu_sees_more_if_it_has_the_memory():
    assert most_voxels(facts(device="cuda", memory=80 * 2**30)) == 128**3
    assert most_voxels(facts(device="cuda", memory=2**33)) < 128**3
    assert batch_size(facts(2, device="cuda")) > batch_size(facts(2))


def test_channels_double_up_to_a_limit():
    assert channels(24, 5) == [24, 48, 96, 192, 256]


@pytest.mark.parametrize(
    ("shape", "edge"), list(product([(30, 200, 7), (64, 64, 64), (9, 500, 40)], [(1, 1, 1), (0.3, 0.3, 2), (4, 1, 1)]))
)
def test_the_network_takes_every_crop(shape, edge):
    form = choose_geometry(facts(shapes=(shape,) * 3, spacings=(edge,) * 3))
    assert math.prod(form.crop) <= 2 * 48 * 64 * 48  # what rounding up adds
    network = UNet(3, 1, 2, channels(2, len(form.strides) + 1), strides=form.strides)
    with torch.no_grad():
        assert network(torch.zeros(1, 1, *form.crop)).shape[2:] == form.crop
