"""Verdicts of made entries, without a store."""

import json

import numpy as np
import pytest
from made_entries import BASE, compared, entry


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
    seeds = [entry("a", BASE, seed=0), entry("b", BASE + 0.05, seed=1)]
    found, rows = rows_of(*seeds)
    assert found.seeds.deviation == pytest.approx(0.05 / np.sqrt(2))
    assert rows["b"].verdict == "within seed luck"


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
    assert "7 of 12 cases of one name are the same files" in rows["new"].remarks[0]


@pytest.mark.parametrize("content", [None, b"", b"{}", b"not json", b"[1]", b'{"cases": [{"id": "x"}]}'])
def test_lists_that_cannot_be_read_leave_nothing_to_compare(content):
    _, rows = rows_of(entry("base", BASE), entry("new", BASE, digest="e"), read=lambda one, path: content)
    assert rows["new"].verdict == "not comparable"


def test_alone_there_is_nothing_to_compare():
    found, _ = rows_of(entry("base", BASE))
    assert found.compared == []
    assert found.baseline.estimate.mean == pytest.approx(0.75)
