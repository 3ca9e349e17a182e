"""What a metric's name means, and what stands for a sweep."""

import pytest

from pipeline.comparison import choice
from pipeline.comparison.choice import parse_metric, some, unfolded
from pipeline.comparison.entries import Entry
from pipeline.comparison.store import TrackedRun
from pipeline.errors import InputError


@pytest.mark.parametrize(
    ("word", "split", "expected"),
    [
        ("val/mean_dice", None, ("mean_dice", "validation", "val/mean_dice")),
        ("val_mean_dice", None, ("mean_dice", "validation", "val/mean_dice")),
        ("test/dice/cell", None, ("dice/cell", "test", "test/dice/cell")),
        ("best/mean_dice", None, ("mean_dice", "validation", "val/mean_dice")),
        ("mean_dice", None, ("mean_dice", "validation", "val/mean_dice")),
        ("mean_dice", "test", ("mean_dice", "test", "test/mean_dice")),
        ("validation/seg", "validation", ("seg", "validation", "val/seg")),
        ("valued", None, ("valued", "validation", "val/valued")),
    ],
)
def test_a_metric_by_its_names(word, split, expected):
    found = parse_metric(word, split)
    assert (found.column, found.split, found.name) == expected


def test_a_metric_of_another_split_is_refused():
    with pytest.raises(InputError, match=r"'test/mean_dice' is of the test split, not of 'validation'"):
        parse_metric("test/mean_dice", "validation")


@pytest.mark.parametrize("name", ["pixel_error", "mean_hd95", "hd95/liver", "surface_distance/a", "warping_error"])
def test_of_errors_and_distances_less_is_better(name):
    assert not parse_metric(name).higher_is_better


@pytest.mark.parametrize(
    "name",
    ["mean_dice", "iou/cell", "accuracy", "seg", "surface_dice/a", "vrand", "dice/hair_loss", "dice/loss", "glossy"],
)
def test_of_scores_more_is_better(name):
    assert parse_metric(name).higher_is_better


def entry(name, **options):
    run = TrackedRun(name, name, "1", "FINISHED", 0, "")
    return Entry(name, run, (run,), {}, **options)


def test_a_sweep_is_replaced_by_its_trials_of_which_the_first_says_that_it_is_the_best(monkeypatch):
    sweep = entry("sweep: a", notes=("the best of 3",), trials=tuple(map(entry, "abc")))
    assert [(one.label, one.notes) for one in unfolded([entry("plain"), sweep])] == [
        ("plain", ()),
        ("a", ("the best of 3",)),
        ("b", ()),
        ("c", ()),
    ]
    monkeypatch.setattr(choice, "MOST_TRIALS", 2)
    first, second = unfolded([sweep])
    assert (first.label, second.label) == ("a", "b")
    assert first.notes[-1] == "1 of the 3 trials, the worst, have no row here"


def test_of_many_names_the_first_are_said():
    assert some(["a", "b"]) == "a, b"
    assert some(list("abcdefg")) == "a, b, c, d, e and 2 more"
