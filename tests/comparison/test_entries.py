"""Tables of cases, and folds as one."""

import math

import pytest

from pipeline.comparison.entries import Entry, pool_folds, read_scores
from pipeline.comparison.store import TrackedRun


def entry(name, cases, digest="d", **params):
    settings = {key: str(value) for key, value in params.items()}
    run = TrackedRun(name, name, "1", "FINISHED", 0, "", settings, {"data_list.digest": digest})
    return Entry(name, run, (run,), {case: {"mean_dice": 0.5} for case in cases})


def test_an_empty_field_is_n_a():
    found = read_scores(b'case,mean_dice,dice/a b\n"one, two",0.5,\nthree,,1\n')
    assert found["one, two"]["mean_dice"] == 0.5
    assert math.isnan(found["one, two"]["dice/a b"])
    assert math.isnan(found["three"]["mean_dice"])
    assert read_scores(b"case\n") == {}


def test_the_mean_leaves_n_a_out():
    of_two = Entry("e", entry("e", "").run, (), {"a": {"s": 1.0}, "b": {"s": math.nan}, "c": {}})
    assert of_two.mean("s") == 1
    assert math.isnan(of_two.mean("other"))


def test_folds_of_one_variant_are_pooled():
    found = pool_folds(
        [entry("x1", "cd", fold=1, lr=1), entry("x0", "ab", fold=0, lr=1), entry("y0", "ab", fold=0, lr=2)]
    )
    assert [one.label for one in found] == ["x0 (2 folds)", "y0"]
    assert sorted(found[0].scores) == list("abcd")
    assert "fold" not in found[0].settings
    assert [run.id for run in found[0].sources] == ["x0", "x1"]
    assert "2 folds as one, 4 cases" in found[0].notes[0]


@pytest.mark.parametrize(
    "second",
    [
        entry("b", "bc", fold=1, lr=1),
        entry("b", "cd", fold=0, lr=1),
        entry("b", "cd", fold=1, lr=2),
        entry("b", "cd", "other", fold=1, lr=1),
        entry("b", "cd", lr=1),
    ],
    ids=["a case in both", "the same fold", "another setting", "another data list", "no fold"],
)
def test_what_is_no_cross_validation_stays_apart(second):
    assert [one.label for one in pool_folds([entry("a", "ab", fold=0, lr=1), second])] == ["a", "b"]
