import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from pipeline.errors import InputError
from pipeline.transforms.instances import (
    Instancesd,
    LabelInstancesd,
    components,
    distance_inside,
    numbered,
    seeded_watershed,
    summits,
)

# One row of a field: two cells that touch at column 4, and one of which the network is less sure.
P = np.array([[0.1, 0.95, 0.95, 0.7, 0.6, 0.95, 0.95, 0.95, 0.1, 0.8, 0.8, 0.2]], np.float32).repeat(3, axis=0)
PRED = torch.from_numpy(P > 0.5)[None].long()
SOFTMAX = torch.from_numpy(np.stack([1 - P, P]))


def balls(shape, centres, radius):
    """A mask of balls, and the distances (centres, *shape) to each of their centres."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    distances = np.stack([np.linalg.norm(grid - centre, axis=-1) for centre in centres])
    return (distances < radius).any(axis=0), distances


def test_components_touch_by_faces():
    mask = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0]], bool)
    assert components(mask).tolist() == [[1, 0, 2], [0, 2, 2], [0, 0, 0]]
    volume = np.stack([mask, np.zeros_like(mask), mask])
    assert components(volume).max() == 4


def test_objects_are_numbered_by_their_first_voxel_and_small_ones_are_left_out():
    instances = np.array([[0, 7, 7, 0], [3, 0, 0, 5], [3, 3, 0, 5]])
    assert numbered(instances).tolist() == [[0, 1, 1, 0], [2, 0, 0, 3], [2, 2, 0, 3]]
    assert numbered(instances, min_size=3).tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]
    assert not numbered(instances, min_size=4).any()


@pytest.mark.parametrize(("count", "dtype"), [(0, "uint8"), (255, "uint8"), (256, "uint16"), (65536, "uint32")])
def test_the_type_is_the_smallest_that_holds_the_numbers(count, dtype):
    many = numbered(np.arange(count + 1)[::-1])
    assert many.dtype == dtype
    assert many.tolist() == [*range(1, count + 1), 0]


def test_seeds_grow_downhill_until_they_meet():
    found = seeded_watershed(P > 0.5, P > 0.9, P)
    for row in found:
        assert row[1:4].tolist() == [1, 1, 1]
        assert row[5:8].tolist() == [2, 2, 2]
        assert row[4] in (1, 2), "the lowest place belongs to either"
        assert row[9] == row[10] > 2, "a component without a seed is not lost"
        assert row[[0, 8, 11]].tolist() == [0, 0, 0]


def test_objects_meet_in_the_valley_and_not_half_way():
    height = np.array([[0.95, 0.6, 0.7, 0.75, 0.8, 0.85, 0.95]]).repeat(3, axis=0)
    assert seeded_watershed(height > 0.5, height > 0.9, height)[1, [0, 2, 3, 4, 5, 6]].tolist() == [1, 2, 2, 2, 2, 2]


def test_a_seed_outside_the_foreground_is_none():
    seeds = np.zeros_like(P, bool)
    seeds[1, 0] = True
    assert np.array_equal(seeded_watershed(P > 0.5, seeds, P), components(P > 0.5))


def test_summits_stand_above_the_neck_between_them():
    height = np.pad([[3.0, 2.5, 3.0, 0.0, 1.0]], 1)
    deep = components(summits(height, 0.3))[1]
    assert deep.tolist() == [0, 1, 0, 2, 0, 3, 0]
    # The neck at 2.5 is less than 1 below both tops: they are one. The third top is no more than 1 high.
    shallow = components(summits(height, 1.0))[1]
    assert shallow[1] == shallow[2] == shallow[3] != 0
    assert shallow[5] == 0


def test_distances_are_in_edges_of_a_voxel():
    mask = np.zeros((5, 5), bool)
    mask[1:4, 1:4] = True
    assert distance_inside(mask)[2].tolist() == [0, 1, 2, 1, 0]
    assert distance_inside(mask, (0.5, 2.0))[2].tolist() == [0, 2, 2, 2, 0], "rows are a quarter as far apart"
    assert distance_inside(mask, (2.0, 0.5))[2].tolist() == [0, 1, 2, 1, 0]


@pytest.mark.parametrize(
    ("shape", "centres"), [((40, 60), [(20, 20), (20, 38)]), ((24, 24, 44), [(12, 12, 12), (12, 12, 30)])]
)
def test_shapes_that_overlap_are_parted_in_the_middle(shape, centres):
    mask, distances = balls(shape, centres, 10.5)
    data = {"pred": torch.from_numpy(mask)[None].long()}
    assert Instancesd(seeds="components")(data)["pred_instances"].max() == 1
    found = Instancesd(seeds="distance")(data)["pred_instances"][0].numpy()
    assert found.max() == 2
    assert np.array_equal(found > 0, mask)
    difference = distances[0] - distances[1]
    assert (found[mask & (difference < -2)] == 1).all()
    assert (found[mask & (difference > 2)] == 2).all()
    single, _ = balls(shape, centres[:1], 10.5)
    assert Instancesd(seeds="distance")({"pred": torch.from_numpy(single)[None]})["pred_instances"].max() == 1


def test_the_spacing_is_that_of_the_image():
    # Discs in millimetres whose rows lie 4 mm apart; the affine is that of a plane which stands on its edge.
    mask, _ = balls((160, 60), [(80, 20), (80, 38)], 10.5)
    flat = torch.from_numpy(mask[::4].copy())[None].long()
    affine = torch.tensor([[0.0, 1, 0, 0], [0, 0, 1, 0], [4, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
    assert Instancesd(seeds="distance")({"pred": MetaTensor(flat, affine=affine)})["pred_instances"].max() == 2
    assert Instancesd(seeds="distance")({"pred": flat})["pred_instances"].max() == 1, "the discs are 5 rows high"


def test_a_sigmoid_and_a_softmax_give_the_same_objects():
    step = Instancesd(seeds="probability", seed_threshold=0.9)
    softmax = step({"pred": PRED, "probabilities": SOFTMAX})["pred_instances"]
    sigmoid = step({"pred": PRED, "probabilities": SOFTMAX[1:]})["pred_instances"]
    assert softmax.max() == 3
    assert torch.equal(softmax, sigmoid)
    three = torch.cat([SOFTMAX[:1], SOFTMAX[1:] / 2, SOFTMAX[1:] / 2])
    assert torch.equal(step({"pred": 2 * PRED, "probabilities": three})["pred_instances"], softmax)


def test_the_seed_threshold_decides_what_is_parted():
    def count(threshold):
        step = Instancesd(seeds="probability", seed_threshold=threshold)
        return int(step({"pred": PRED, "probabilities": SOFTMAX})["pred_instances"].max())

    assert (count(0.5), count(0.65), count(0.9), count(0.99)) == (2, 3, 3, 2)


@pytest.mark.parametrize("seeds", ["components", "probability", "distance"])
def test_the_foreground_is_that_of_the_classes(seeds):
    random = np.random.default_rng(0)
    probability = torch.from_numpy(random.random((1, 30, 40)).astype(np.float32))
    data = {"pred": (probability > 0.4).long(), "probabilities": probability}
    found = Instancesd(seeds=seeds)(data)["pred_instances"]
    assert np.array_equal(found.numpy() > 0, data["pred"] > 0)
    assert torch.equal(found, Instancesd(seeds=seeds)(data)["pred_instances"])
    first = np.unique(found.numpy()[found.numpy() > 0], return_index=True)[1]
    assert first.tolist() == sorted(first), "numbers rise with the first voxel of their object"
    large = Instancesd(seeds=seeds, min_size=5)(data)["pred_instances"].numpy()
    assert np.unique(large[large > 0], return_counts=True)[1].min() >= 5
    assert set(np.unique(large)) == set(range(large.max() + 1))


@pytest.mark.parametrize("seeds", ["components", "probability", "distance"])
def test_no_foreground_is_no_object(seeds):
    nothing = {"pred": torch.zeros(1, 5, 6, 7), "probabilities": torch.zeros(1, 5, 6, 7)}
    found = Instancesd(seeds=seeds)(nothing)["pred_instances"]
    assert found.shape == (1, 5, 6, 7)
    assert not found.numpy().any()


def test_meta_data_and_classes_stay():
    pred = MetaTensor(PRED, meta={"filename_or_obj": "a.tif"})
    data = Instancesd(instances_key="objects")({"pred": pred, "probabilities": SOFTMAX, "id": "a"})
    assert data["objects"].meta["filename_or_obj"] == "a.tif"
    assert data["objects"].dtype == torch.uint8
    assert data["objects"].shape == pred.shape
    assert torch.equal(data["pred"], PRED)
    assert data["id"] == "a"


def test_more_than_255_objects_pass_as_a_tensor():
    dots = torch.zeros(1, 60, 60)
    dots[:, ::2, ::2] = 1
    found = Instancesd()({"pred": dots})["pred_instances"]
    assert (found.dtype, int(found.numpy().max())) == (torch.uint16, 900)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": "border"}, "seeds is 'border'"),
        ({"seed_threshold": 1.0}, "seed_threshold 1.0"),
        ({"seed_depth": 0}, "seed_depth 0"),
        ({"min_size": -1}, "min_size -1"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(InputError, match=message):
        Instancesd(**options)


def test_the_objects_of_a_label_are_kept_before_it_becomes_a_mask():
    label = MetaTensor(torch.tensor([[[7, 7, 4, 0, 4]]], dtype=torch.int32), meta={"filename_or_obj": "a.tif"})
    kept = LabelInstancesd(label_kind="instances")({"label": label})
    assert kept["label_instances"].tolist() == [[[7, 7, 4, 0, 4]]], "one id is one object, even in two pieces"
    assert kept["label_instances"].meta["filename_or_obj"] == "a.tif"
    label[:] = 0
    assert kept["label_instances"].any(), "a copy"
    classes = LabelInstancesd(label_kind="classes")({"label": torch.tensor([[[1, 2, 0, 0, 1]]])})
    assert classes["label_instances"].tolist() == [[[1, 1, 0, 0, 2]]]
