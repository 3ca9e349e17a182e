"""Verdicts of made entries, without a store."""

import json
from dataclasses import replace

import numpy as np
import pytest
from made_entries import BASE, compared, entry
from scipy.stats import wilcoxon

from pipeline.comparison.choice import Metric
from pipeline.comparison.comparison import compare_entries


def rows_of(*entries, **options):
    found = compared(*entries, **options)
    return found, {row.label: row for row in found.rows}


def test_all_better_by_hand():
    found, rows = rows_of(entry("base", BASE), entry("up", BASE + 0.02), entry("down", BASE - 0.02))
    # All 12 differences have one sign: p = 2 / 2^12, corrected for two comparisons 4 / 2^12.
    for name, verdict, sign in (("up", "better", 1), ("down", "worse", -1)):
        assert rows[name].verdict == verdict
        assert rows[name].corrected_p == pytest.approx(4 / 2**12)
        assert rows[name].difference.estimate.mean == pytest.approx(sign * 0.02)
    assert (rows["up"].difference.better, rows["down"].difference.worse) == (12, 12)
    assert [row.label for row in found.rows] == ["up", "base", "down"]
    assert found.baseline.verdict == "baseline"


def test_only_different_seeds_tell_of_luck():
    twins = [entry("a", BASE, seed=0), entry("b", BASE + 0.05, seed=0)]
    assert rows_of(*twins)[0].seeds is None
    seeds = [entry("a", BASE, seed=0), entry("b", BASE + 0.05, seed=1), entry("c", BASE + 0.1, seed=2)]
    found, rows = rows_of(*seeds)
    assert found.seeds.deviation == pytest.approx(0.05)
    assert rows["b"].verdict == rows["c"].verdict == "within seed luck"


def test_one_other_seed_tells_too_little_of_luck_and_that_is_said():
    found, rows = rows_of(entry("a", BASE, seed=0), entry("b", BASE + 0.05, seed=1), entry("c", BASE + 0.05, lr=2))
    assert found.seeds is None
    assert rows["c"].verdict == "better"
    (said,) = found.notes[-1:]
    assert said.startswith(
        "2 runs that differ by their seed alone are too few to tell what luck of the seed is worth (1 "
    )
    assert said.endswith("; train a third")


def test_infinite_scores_are_no_numbers():
    scores = BASE.copy()
    scores[3] = np.inf
    _, rows = rows_of(entry("base", BASE), entry("far", scores))
    assert rows["far"].not_applicable == 1
    assert len(rows["far"].common) == 11


def test_lists_that_differ_elsewhere_share_their_equal_cases():
    def read(one, path):
        assert path == "bundle/configs/data_list.json"
        label = {"new": "redone.tif"}.get(one.label, "old.tif")
        cases = [{"id": f"case_{n}", "image": "i.tif", "label": label if n < 5 else "same.tif"} for n in range(12)]
        return json.dumps({"cases": cases}).encode()

    _, rows = rows_of(entry("base", BASE), entry("new", BASE, digest="e"), read=read)
    assert rows["new"].common == tuple(f"case_{n}" for n in range(5, 12))
    assert (
        "7 of 12 cases of one name have the same paths in both; what the files held is not recorded"
        in (rows["new"].remarks[0])
    )


def of_data(name, scores, contents, **options):
    one = entry(name, scores, **options)
    return replace(one, contents={f"case_{n}": content for n, content in enumerate(contents)})


def test_only_cases_of_the_same_content_are_compared_whatever_the_list_says():
    same, moved = ["x"] * 12, ["other"] * 4 + ["x"] * 8
    base = of_data("base", BASE, same)
    _, rows = rows_of(base, of_data("new labels", BASE - 0.1, moved), of_data("elsewhere", BASE, same, digest="e"))
    assert rows["new labels"].common == tuple(f"case_{n}" for n in range(4, 12))
    said = "other data than the baseline's in 4 of 12 cases of one name: case_0, case_1, case_2, case_3"
    assert rows["new labels"].remarks[0] == said
    assert len(rows["elsewhere"].common) == 12, "another list of the same files"
    assert rows["elsewhere"].remarks == ()
    _, rows = rows_of(base, of_data("all new", BASE - 0.1, ["other"] * 12))
    assert rows["all new"].verdict == "not comparable"
    assert (
        rows["all new"].remarks[0].startswith("other data than the baseline's in 12 of 12 cases of one name: case_0, ")
    )
    assert rows["all new"].remarks[0].endswith(" and 7 more")


def test_of_content_that_is_not_recorded_nothing_is_claimed():
    base = of_data("base", BASE, ["x"] * 12)
    found, rows = rows_of(base, entry("old", BASE + 0.1), entry("older", BASE + 0.2))
    assert len(rows["old"].common) == 12
    unknown = "what the files held is not recorded, here or for the baseline"
    assert f"'older', 'old': {unknown}: cases of one name in the same data list are taken to be the same" in found.notes


def test_seeds_are_compared_on_the_same_data_only():
    seeds = [of_data(f"seed {n}", BASE + 0.01 * n, ["x"] * 12, seed=n) for n in range(3)]
    other = of_data("other labels", BASE - 0.5, ["y"] * 12, seed=3)
    assert rows_of(*seeds)[0].seeds.deviation == pytest.approx(0.01)
    assert rows_of(*seeds, other)[0].seeds is None, "no case in common of all four"


@pytest.mark.parametrize(
    ("sign", "verdict"), [(1, "most cases better, mean worse"), (-1, "most cases worse, mean better")]
)
def test_a_few_collapsed_cases_do_not_turn_the_test_around(sign, verdict):
    moves = np.concatenate([np.linspace(0.004, 0.006, 20), [-0.5, -0.6]])
    base = np.full(22, 0.8)
    _, rows = rows_of(entry("base", base), entry("odd", base + sign * moves))
    # Ranks of the two far off: 21 and 22 of 253, so that the others have 210: p = 0.0165 by SciPy's exact test.
    found = rows["odd"].difference
    assert found.p == pytest.approx(wilcoxon(moves).pvalue)
    assert found.estimate.mean * sign < 0
    assert rows["odd"].verdict == verdict


def test_of_distances_the_direction_turns():
    moves = np.concatenate([np.linspace(0.004, 0.006, 20), [-0.5, -0.6]])
    entries = [entry("base", np.full(22, 0.8)), entry("odd", 0.8 - moves)]
    renamed = [
        replace(one, scores={case: {"hd95": row["mean_dice"]} for case, row in one.scores.items()}) for one in entries
    ]
    found = compare_entries(renamed, renamed[0], Metric("hd95", "validation"), lambda *_: None)
    assert {row.label: row.verdict for row in found.rows}["odd"] == "most cases better, mean worse"


def test_what_is_said_of_many_runs_is_said_once():
    same = [entry(f"old {n}", BASE, digest=None) for n in range(8)]
    (note,) = rows_of(entry("base", BASE, digest=None), *same)[0].notes
    assert note.startswith(
        "'old 0', 'old 1', 'old 2', 'old 3', 'old 4' and 3 more: what the files held is not recorded"
    )


@pytest.mark.parametrize("content", [None, b"", b"{}", b"not json", b"[1]", b'{"cases": [{"id": "x"}]}'])
def test_lists_that_cannot_be_read_leave_nothing_to_compare(content):
    _, rows = rows_of(entry("base", BASE), entry("new", BASE, digest="e"), read=lambda one, path: content)
    assert rows["new"].verdict == "not comparable"


def test_alone_there_is_nothing_to_compare():
    found, _ = rows_of(entry("base", BASE))
    assert found.compared == []
    assert found.baseline.estimate.mean == pytest.approx(0.75)


def test_other_code_is_a_column():
    entries = [entry(name, BASE) for name in ("base", "other")]
    commits = [{**one.run.tags, "mlflow.source.git.commit": f"{n}" * 40} for n, one in enumerate(entries)]
    coded = [replace(one, run=replace(one.run, tags=tags)) for one, tags in zip(entries, commits, strict=True)]
    assert [(column.key, column.values) for column in compared(*coded).columns] == [("code", ("0" * 8, "1" * 8))]
