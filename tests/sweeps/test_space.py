import itertools

import pytest

from pipeline.errors import InputError
from pipeline.sweeps import space
from pipeline.sweeps.space import read_axis


def axes(**entries):
    return [read_axis(key.replace("__", "#"), entry) for key, entry in entries.items()]


@pytest.mark.parametrize(
    ("entry", "points"),
    [
        ([8, 16], [8, 16]),
        ([None, "batch", True, 0.5], [None, "batch", True, 0.5]),
        ({"int": [2, 5]}, [2, 3, 4, 5]),
        ({"int": [2, 9], "step": 3}, [2, 5, 8]),
        ({"float": [0, 1], "step": 0.25}, [0, 0.25, 0.5, 0.75, 1]),
        ({"float": [0, 1], "step": 0.3}, [0, 0.3, 0.6, 0.9]),
        ({"float": [0, 1]}, None),
        ({"log": [1e-5, 1e-2]}, None),
    ],
)
def test_an_axis_knows_its_points(entry, points):
    found = read_axis("dropout", entry).points()
    assert (
        found == points if points is None else found == pytest.approx(points) if None not in points else found == points
    )


@pytest.mark.parametrize(
    ("key", "entry", "words"),
    [
        ("lr", 0.1, r"'lr' is 0.1. Remedy: give a list of choices"),
        ("lr", [], "'lr' is an empty list"),
        ("lr", [1, 2, 1], "'lr' has 1 twice"),
        ("lr", [[1, 2], [1, 2]], r"'lr' has \[1, 2\] twice"),
        ("lr", {}, "'lr' names no range"),
        ("lr", {"logs": [1, 2]}, "unknown word 'logs'. Remedy: did you mean log?"),
        ("lr", {"int": [1, 2], "log": [1, 2]}, "'lr' names int and log"),
        ("lr", {"int": [1, 2.5]}, r"'lr' is {int: \[1, 2.5\]}. Remedy: give two whole numbers"),
        ("lr", {"float": [1]}, r"give two numbers, {float: \[low, high\]}"),
        ("lr", {"float": ["a", 2]}, "give two numbers"),
        ("lr", {"float": [0, float("inf")]}, "give two numbers"),
        ("lr", {"float": [2, 1]}, "'lr' goes from 2 to 1. Remedy: give the lower number first"),
        ("lr", {"log": [0, 1]}, "logarithmic and begins at or below 0"),
        ("lr", {"log": [1, 8], "step": 2}, "logarithmic and has a step"),
        ("lr", {"float": [0, 1], "step": 2}, "has the step 2. Remedy: give a step above 0 and up to 1"),
        ("lr", {"int": [0, 4], "step": 0}, "has the step 0"),
        ("overlay", "net_paper", r"'overlay' is 'net_paper'. Remedy: give a list of overlays"),
        ("overlay", [{"a": 1}], "'overlay' holds {'a': 1}"),
        ("overlay#net", [["net_paper", 3]], "'overlay#net' holds"),
        ("overlay", [None, []], "'overlay' has none twice"),
    ],
)
def test_what_is_no_axis_is_refused_with_a_remedy(key, entry, words):
    with pytest.raises(InputError, match=words):
        read_axis(key, entry)


def test_choices_that_optuna_cannot_keep_come_back_as_they_were_given():
    (axis,) = axes(network_def__channels=[[8, 16], {"a": None}, "x"])
    assert [axis.value(label) for label in axis.points()] == [[8, 16], {"a": None}, "x"]


def test_a_point_is_overlays_in_the_order_of_the_axes_and_settings():
    made = axes(overlay__net=[None, "net_paper"], lr=[0.1], overlay=[["loss_ce", "net_paper"], "aug_none"])
    rows = [(space.overlays(made, point), space.settings(made, point)) for point in space.grid(made)]
    assert rows == [
        (["loss_ce", "net_paper"], {"lr": 0.1}),
        (["aug_none"], {"lr": 0.1}),
        (["net_paper", "loss_ce"], {"lr": 0.1}),
        (["net_paper", "aug_none"], {"lr": 0.1}),
    ]
    assert [point["overlay#net"] for point in space.grid(made)] == ["none", "none", "net_paper", "net_paper"]


def test_a_grid_has_every_combination_and_its_last_axis_runs_fastest():
    made = axes(a=[1, 2], b={"int": [0, 2]})
    assert space.grid(made) == [{"a": a, "b": b} for a, b in itertools.product([1, 2], [0, 1, 2])]
    assert space.size(made) == 6
    assert space.size([*made, *axes(c={"float": [0, 1]})]) is None


def test_draws_differ_from_each_other_lie_in_the_space_and_depend_on_the_seed_alone():
    made = axes(a=[1, 2], b={"log": [1e-4, 1e-2]}, c={"int": [8, 64], "step": 8})
    drawn = space.draws(made, 3, 20)
    assert all(point["a"] in (1, 2) and 1e-4 <= point["b"] <= 1e-2 and point["c"] % 8 == 0 for point in drawn)
    assert len({tuple(point.values()) for point in drawn}) == 20
    assert space.draws(made, 3, 7) == drawn[:7]
    assert space.draws(made, 4, 7) != drawn[:7]


def test_draws_from_a_small_space_end_when_all_of_it_is_drawn():
    made = axes(a=[1, 2], b=[3, 4])
    drawn = space.draws(made, 0, 100)
    assert sorted(map(str, drawn)) == sorted(map(str, space.grid(made)))
