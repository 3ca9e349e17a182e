"""Runs of a made store, compared and ranked: what is said, what is left out, what the files hold."""

import csv
import io
import re
import shutil

import numpy as np
import pytest
from made_runs import DIGEST, made_run
from mlflow.tracking import MlflowClient

from pipeline.compare import compare, leaderboard
from pipeline.errors import InputError
from pipeline.slices import Slice

RNG = np.random.default_rng(3)
CASES = [f"case_{number:02d}" for number in range(16)]
BASE = dict(zip(CASES, 0.9 - RNG.gamma(2, 0.03, 16), strict=True))


def shifted(by, noise=0.004, seed=0):
    moves = np.random.default_rng(seed).normal(by, noise, 16)
    return {case: score + move for (case, score), move in zip(BASE.items(), moves, strict=True)}


@pytest.fixture
def store(empty_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    return MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture(autouse=True)
def without_page(request, monkeypatch):
    """Drawing takes a second, which only tests that ask for `with_page` pay."""
    if "with_page" not in request.fixturenames:
        monkeypatch.setattr("pipeline.compare.comparison_page", lambda *arguments: "")


@pytest.fixture
def with_page():
    """The page is drawn."""


def verdicts(found):
    return {row.label: row.verdict for row in found.rows}


def read(folder, name):
    return list(csv.DictReader(io.StringIO((folder / name).read_text())))


def test_the_better_run_is_found_and_equal_ones_are_not_called_different(store, tmp_path, capsys):
    made_run(store, "cells", "plain", BASE, params={"epochs": 6, "lr": 0.1})
    made_run(store, "cells", "same", shifted(0, seed=1), params={"epochs": 6, "lr": 0.2})
    made_run(store, "cells", "long", shifted(0.03, seed=2), params={"epochs": 18, "lr": 0.1})
    made_run(store, "cells", "bad", shifted(-0.05, seed=3), params={"epochs": 1, "lr": 0.1})
    found = compare(output=tmp_path / "out")
    assert verdicts(found) == {
        "long": "better",
        "plain": "baseline",
        "same": "no difference shown",
        "bad": "worse",
    }
    assert next(iter(verdicts(found))) == "long", "the best comes first"
    said = capsys.readouterr().out
    assert "long is better" in said
    assert "the baseline is the oldest run, plain" in said
    rows = {row["run"]: row for row in read(tmp_path / "out", "comparison.csv")}
    by_hand = np.mean([shifted(0.03, seed=2)[case] - BASE[case] for case in CASES])
    assert float(rows["long"]["difference"]) == pytest.approx(by_hand)
    assert float(rows["plain"]["mean"]) == pytest.approx(np.mean(list(BASE.values())))
    assert (rows["long"]["params.epochs"], rows["same"]["params.lr"]) == ("18", "0.2")
    cases = {row["case"]: row for row in read(tmp_path / "out", "cases.csv")}
    assert float(cases["case_03"]["plain"]) == pytest.approx(BASE["case_03"])


def test_histories_and_slices_reach_the_page(store, tmp_path, with_page):
    square = np.zeros((8, 8), np.uint8)
    kept = {case: Slice(score, square, square, square) for case, score in BASE.items()}
    for name, by in (("plain", 0), ("long", 0.03)):
        history = [("mean_dice", epoch, 0.1 * epoch) for epoch in range(1, 6)]
        made_run(store, "cells", name, shifted(by), history=history, slices=kept)
    compare(output=tmp_path / "out")
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "Validation over the epochs" in page
    assert "of 16 that both keep slices of" in page


def test_only_common_cases_are_compared_and_that_is_said(store, tmp_path, capsys, with_page):
    made_run(store, "cells", "plain", BASE)
    made_run(store, "cells", "half", {case: BASE[case] + 0.01 for case in CASES[8:]} | {"other": 0.1})
    made_run(store, "cells", "elsewhere", {"x": 0.5, "y": 0.6})
    found = compare(output=tmp_path / "out")
    rows = {row.label: row for row in found.rows}
    assert rows["half"].common == tuple(CASES[8:])
    assert rows["half"].difference.estimate.mean == pytest.approx(0.01)
    assert rows["elsewhere"].verdict == "not comparable"
    assert rows["elsewhere"].difference is None
    assert found.rows[-1] is rows["elsewhere"], "what cannot be compared comes last"
    for said in (capsys.readouterr().out, (tmp_path / "out" / "comparison.html").read_text()):
        said = " ".join(said.split()).replace("&#x27;", "'")
        said = said.replace("\u00a0", " ")
        assert "'half': compared on the 8 cases that it has in common with the baseline's 16" in said
        assert "'elsewhere': not comparable: no case in common with the baseline" in said
    remarks = {row["run"]: row["remarks"] for row in read(tmp_path / "out", "comparison.csv")}
    assert "8 cases" in remarks["half"]
    assert "not comparable" in remarks["elsewhere"]


def listed(labels):
    return [{"id": case, "image": f"images/{case}.tif", "label": labels.get(case, case)} for case in CASES]


def test_of_another_data_list_only_the_same_files_are_compared(store, tmp_path, capsys):
    redone = dict.fromkeys(CASES[:10], "labels/second reading.tif")
    made_run(store, "cells", "plain", BASE, data_list=listed({}))
    made_run(store, "cells", "new labels", shifted(0.03), digest="e" * 64, data_list=listed(redone))
    made_run(store, "cells", "lost list", shifted(0.03), digest="f" * 64)
    made_run(store, "cells", "no digest", shifted(0.03), digest=None)
    found = compare(output=tmp_path / "out")
    rows = {row.label: row for row in found.rows}
    assert rows["new labels"].common == tuple(CASES[10:])
    assert rows["lost list"].verdict == "not comparable"
    assert len(rows["no digest"].common) == 16
    said = " ".join(capsys.readouterr().out.split())
    assert "'new labels': other data list (eeeeeeee instead of dddddddd): 6 of 16 cases" in said
    assert "'lost list': other data list (ffffffff instead of dddddddd), and the lists themselves are not kept" in said
    assert "'no digest': what the files held is not recorded, here or for the baseline, and no data list" in said


def test_cases_without_a_score_are_left_out_by_pairs_and_counted(store, tmp_path, capsys):
    made_run(store, "cells", "plain", {**BASE, CASES[0]: float("nan")})
    made_run(store, "cells", "other", {**BASE, CASES[1]: float("nan")})
    found = compare(output=tmp_path / "out")
    (row,) = found.compared
    assert row.common == tuple(CASES[2:])
    assert (row.not_applicable, row.estimate.count) == (1, 15)
    assert row.difference.equal == 14
    assert "'other': 1 of 16 cases are n/a and left out" in " ".join(capsys.readouterr().out.split())


def test_a_metric_that_a_run_lacks_is_said(store, tmp_path, capsys):
    made_run(store, "cells", "plain", {case: {"mean_dice": s, "seg": s / 2} for case, s in BASE.items()})
    made_run(store, "cells", "without", BASE)
    found = compare(metric="val_seg", output=tmp_path / "out")
    assert verdicts(found) == {"plain": "baseline", "without": "not comparable"}
    assert "'without': has no score 'seg'" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"no run has scores 'sge'.*did you mean seg"):
        compare(metric="sge", output=tmp_path / "out")


def test_too_few_cases_cannot_show_anything_and_that_is_said(store, tmp_path, capsys):
    five = {case: BASE[case] for case in CASES[:5]}
    made_run(store, "cells", "plain", five)
    made_run(store, "cells", "much better", {case: score + 0.3 + 0.01 * BASE[case] for case, score in five.items()})
    found = compare(output=tmp_path / "out")
    assert verdicts(found)["much better"] == "no difference shown"
    assert "5 unequal pair(s) are too few: p cannot get below 0.062" in " ".join(capsys.readouterr().out.split())


def test_a_difference_that_another_seed_gives_too_is_called_so(store, tmp_path):
    for name, seed, by in (("a-0", 0, 0), ("a-1", 1, 0.02), ("b-0", 0, 0.015), ("b-1", 1, -0.01), ("c", 0, 0.5)):
        made_run(store, "cells", name, shifted(by, 0.001, seed=ord(name[0])), params={"seed": seed, "kind": name[0]})
    found = compare(output=tmp_path / "out")
    # Spread 0.02 and 0.025 within two variants: s = 0.016, t(2) = 4.30, so the bound is 0.0975.
    assert found.seeds.bound == pytest.approx(4.302653 * np.sqrt(0.02**2 / 2 + 0.025**2 / 2), rel=0.1)
    assert verdicts(found) == {
        "c": "better",
        "a-0": "baseline",
        "a-1": "within seed luck",
        "b-0": "within seed luck",
        "b-1": "within seed luck",
    }


def test_errors_are_better_when_they_are_less(store, tmp_path):
    rows = {case: {"mean_dice": s, "mean_hd95": 10 * (1 - s)} for case, s in BASE.items()}
    made_run(store, "cells", "plain", rows)
    nearer = {case: {"mean_dice": 0.5, "mean_hd95": row["mean_hd95"] - 1} for case, row in rows.items()}
    made_run(store, "cells", "nearer", nearer)
    found = compare(metric="val/mean_hd95", output=tmp_path / "out")
    assert [row.label for row in found.rows] == ["nearer", "plain"]
    assert found.rows[0].verdict == "better"
    assert found.rows[0].difference.better == 16


def test_an_evaluation_stands_in_the_row_of_its_training(store, tmp_path, capsys):
    for name, by in (("plain", 0), ("long", 0.03)):
        run = made_run(store, "cells", name, BASE, params={"epochs": name})
        older = {case: 0.1 for case in CASES}
        made_run(store, "cells", f"test of {name}", older, "test", parent=run, tags={"evaluation": "test"})
        made_run(store, "cells", f"test of {name}", shifted(by), "test", parent=run, tags={"evaluation": "test"})
    on_test = compare(metric="test/mean_dice", output=tmp_path / "out")
    assert verdicts(on_test) == {"long": "better", "plain": "baseline"}
    assert "evaluated 2 times; the newest counts" in capsys.readouterr().out
    on_validation = compare(output=tmp_path / "out")
    assert verdicts(on_validation) == {"plain": "baseline", "long": "no difference shown"}


def test_folds_of_one_variant_are_one_row(store, tmp_path, capsys):
    for name, by in (("plain", 0), ("long", 0.03)):
        for fold in range(4):
            part = {case: shifted(by)[case] for case in CASES[fold::4]}
            made_run(store, "cells", f"{name}-{fold}", part, params={"fold": fold, "kind": name})
    found = compare(output=tmp_path / "out")
    assert verdicts(found) == {"long-0 (4 folds)": "better", "plain-0 (4 folds)": "baseline"}
    assert {row.estimate.count for row in found.rows} == {16}
    assert [column.key for column in found.columns] == ["kind"]
    assert "4 folds as one, 16 cases" in capsys.readouterr().out


def test_a_sweep_is_one_row_until_it_is_named(store, tmp_path, capsys, with_page):
    made_run(store, "cells", "plain", BASE, params={"lr": 1})
    sweep = made_run(store, "cells", "sweep")
    for number, by in enumerate((0.01, 0.04, -0.02)):
        made_run(store, "cells", f"trial {number}", shifted(by), parent=sweep, params={"lr": number})
    found = compare(output=tmp_path / "out")
    assert verdicts(found) == {"sweep: trial 1": "better", "plain": "baseline"}
    assert "the best of 3 trials of 'sweep', chosen on these cases" in capsys.readouterr().out
    assert "3 trials of sweep: trial 1" in (tmp_path / "out" / "comparison.html").read_text()
    named = compare(runs=["sweep"], baseline="plain", output=tmp_path / "out")
    assert {row.label for row in named.rows} == {"plain", "trial 0", "trial 1", "trial 2"}


def test_runs_by_name_id_and_beginning_of_an_id(store, tmp_path):
    ids = [made_run(store, "cells", name, shifted(0.001 * n, seed=n)) for n, name in enumerate("abcd")]
    found = compare(runs=["b", ids[0], ids[3][:12]], output=tmp_path / "out")
    assert {row.label for row in found.rows} == {"a", "b", "d"}
    assert found.baseline.label == "b", "the first that is named"
    with pytest.raises(InputError, match="no run has the name or id 'nobody'"):
        compare(runs=["nobody"], output=tmp_path / "out")


def test_a_filter_in_the_words_of_mlflow(store, tmp_path):
    for number, name in enumerate("abc"):
        made_run(store, "cells", name, shifted(0, seed=number), params={"lr": number})
    found = compare(filter_="params.lr != '1'", output=tmp_path / "out")
    assert {row.label for row in found.rows} == {"a", "c"}
    with pytest.raises(InputError, match="refuses"):
        compare(filter_="nonsense", output=tmp_path / "out")


def test_unfinished_runs_are_left_out_unless_named(store, tmp_path, capsys):
    made_run(store, "cells", "plain", BASE)
    made_run(store, "cells", "crashed", shifted(0.1), status="FAILED")
    assert set(verdicts(compare(output=tmp_path / "out"))) == {"plain"}
    compare(runs=["plain", "crashed"], output=tmp_path / "out")
    assert "'crashed' is not finished (FAILED)" in capsys.readouterr().out


def test_the_newest_experiment_is_taken_and_that_is_said(store, tmp_path, capsys):
    made_run(store, "older", "a", BASE)
    made_run(store, "newer", "b", BASE)
    assert set(verdicts(compare(output=tmp_path / "out"))) == {"b"}
    assert "experiment 'newer' has the newest run; others: " in capsys.readouterr().out
    assert set(verdicts(compare("older", output=tmp_path / "out"))) == {"a"}
    with pytest.raises(InputError, match=r"no experiment 'oldr'.*did you mean older"):
        compare("oldr", output=tmp_path / "out")


def test_of_many_runs_the_best_are_compared_and_that_is_said(store, tmp_path, capsys):
    for number in range(5):
        made_run(store, "cells", f"run {number}", shifted(0.01 * number, seed=number))
    found = compare(most=3, output=tmp_path / "out")
    assert {row.label for row in found.rows} == {"run 4", "run 3", "run 2"}
    assert "the best 3 of more runs by val/mean_dice" in " ".join(capsys.readouterr().out.split())


def test_runs_without_scores_are_named(store, tmp_path, capsys):
    made_run(store, "cells", "plain", BASE)
    made_run(store, "cells", "empty")
    compare(output=tmp_path / "out")
    assert "no scores of the validation split (evaluation/validation/cases.csv): empty" in " ".join(
        capsys.readouterr().out.split()
    )
    reason = r"no run here has scores of the validation split; left out, no scores of .*cases.csv\): empty"
    with pytest.raises(InputError, match=reason):
        compare(runs=["empty"], output=tmp_path / "out")


def test_labels_that_were_changed_under_the_same_list_are_no_worse_network(store, tmp_path, capsys):
    first, redone = dict.fromkeys(CASES, "0" * 16), dict.fromkeys(CASES[:9], "1" * 16)
    made_run(store, "cells", "plain", BASE, contents=first)
    made_run(store, "cells", "all new", shifted(-0.3), contents="1" * 16)
    made_run(store, "cells", "some new", shifted(-0.3), contents={**first, **redone})
    found = compare(output=tmp_path / "out")
    assert verdicts(found) == {"plain": "baseline", "some new": "worse", "all new": "not comparable"}
    assert {row.label: row.common for row in found.rows}["some new"] == tuple(CASES[9:])
    said = " ".join(capsys.readouterr().out.split())
    assert "'some new': other data than the baseline's in 9 of 16 cases of one name: case_00, case_01" in said
    assert "compared on the 7 cases" in said
    assert "'all new': not comparable: no case in common with the baseline on the same data" in said


def test_folds_of_changed_data_are_not_one_row(store, tmp_path):
    for fold, data in enumerate(("as it was", "as it was", "changed")):
        part = {case: BASE[case] for case in CASES[fold::3]}
        made_run(store, "cells", f"plain-{fold}", part, params={"fold": fold}, tags={"data.digest": data})
    found = compare(output=tmp_path / "out")
    assert verdicts(found) == {"plain-0 (2 folds)": "baseline", "plain-2": "not comparable"}


def test_why_nothing_can_be_compared(store, tmp_path):
    key = made_run(store, "cells", "plain", BASE, params={"lr": 1})
    with pytest.raises(InputError, match=r"no finished run of the experiment 'cells' fits the filter params.lr = '7'"):
        compare(filter_="params.lr = '7'", output=tmp_path / "out")
    with pytest.raises(InputError, match="no evaluation of the test split of the experiment 'cells'"):
        compare(split="test", output=tmp_path / "out")
    with pytest.raises(InputError, match="--most 0 leaves no run to compare"):
        compare(most=0, output=tmp_path / "out")
    files = next(tmp_path.glob(f"mlruns/*/{key}"))
    files.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"no run here has scores of .*: plain") as caught:
        compare(output=tmp_path / "out")
    assert f"its files are gone from {files.parent}" in str(caught.value)


def test_a_place_that_cannot_be_written_is_said_before_the_work(store, tmp_path, monkeypatch):
    made_run(store, "cells", "plain", BASE)
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr("pipeline.compare.Store", None)  # nothing is asked
    for place in ("file", "file/below", "x" * 300):
        for verb in (compare, leaderboard):
            with pytest.raises(InputError, match=r"no folder|no such folder"):
                verb(output=tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"
    monkeypatch.setattr("os.access", lambda *place: False)
    with pytest.raises(InputError, match="no place to write to"):
        compare(output=tmp_path / "out")


def test_a_store_of_files_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(InputError, match="the MLflow store"):
        compare(uri=(tmp_path / "mlruns").as_uri(), output=tmp_path / "out")


def test_a_fold_means_the_row_that_it_is_part_of(store, tmp_path, capsys):
    for name, by in (("plain", 0), ("long", 0.03)):
        for fold in range(2):
            part = {case: shifted(by)[case] for case in CASES[fold::2]}
            made_run(store, "cells", f"{name}-{fold}", part, params={"fold": fold, "kind": name})
    found = compare(baseline="plain-1", output=tmp_path / "out")
    assert verdicts(found) == {"long-0 (2 folds)": "better", "plain-0 (2 folds)": "baseline"}
    said = " ".join(capsys.readouterr().out.split())
    assert "the baseline is plain-0 (2 folds), with all folds of the variant that 'plain-1' is of" in said


def test_of_two_runs_of_one_name_the_newest_is_the_baseline_and_that_is_said(store, tmp_path, capsys):
    ids = [made_run(store, "cells", "twin", shifted(0.01 * n, seed=n)) for n in range(2)]
    assert compare(baseline="twin", output=tmp_path / "out").baseline.entry.run.id == ids[1]
    assert f"2 runs are called 'twin': the newest counts ({ids[1][:8]})" in " ".join(capsys.readouterr().out.split())


def test_the_baseline_has_the_score(store, tmp_path, capsys):
    made_run(store, "cells", "older", BASE)
    for name, by in (("plain", 0), ("long", 0.1)):
        rows = {case: {"mean_dice": s, "seg": s + by} for case, s in shifted(by).items()}
        made_run(store, "cells", name, rows)
    found = compare(metric="seg", output=tmp_path / "out")
    assert verdicts(found) == {"long": "better", "plain": "baseline", "older": "not comparable"}
    assert "the baseline is the oldest run with this score, plain" in capsys.readouterr().out
    assert compare(runs=["older", "long"], metric="seg", output=tmp_path / "out").baseline.label == "long"
    with pytest.raises(InputError, match="the baseline 'older' has no score 'seg'"):
        compare(metric="seg", baseline="older", output=tmp_path / "out")


def test_a_score_that_is_n_a_everywhere_is_said(store, tmp_path):
    made_run(store, "cells", "plain", {case: {"mean_dice": 0.5, "seg": float("nan")} for case in CASES})
    with pytest.raises(InputError, match="'seg' is n/a in every case of every run"):
        compare(metric="seg", output=tmp_path / "out")


def test_a_baseline_from_elsewhere_has_to_have_scores(store, tmp_path):
    made_run(store, "other", "far", shifted(0.01))
    made_run(store, "other", "empty")
    made_run(store, "cells", "plain", BASE)
    assert verdicts(compare("cells", baseline="far", output=tmp_path / "out"))["far"] == "baseline"
    with pytest.raises(InputError, match="the baseline 'empty' is left out: no scores of the validation split"):
        compare("cells", baseline="empty", output=tmp_path / "out")


def test_the_best_trial_as_baseline_says_that_it_was_chosen_on_these_cases(store, tmp_path, capsys):
    sweep = made_run(store, "cells", "sweep")
    for number, by in enumerate((0.01, 0.04, -0.02)):
        made_run(store, "cells", f"trial {number}", shifted(by), parent=sweep, params={"lr": number})
    assert compare(runs=["sweep"], output=tmp_path / "out").baseline.label == "trial 1"
    named = compare(runs=["sweep"], baseline="sweep", output=tmp_path / "out")
    assert named.baseline.label == "trial 1"
    assert len(named.rows) == 3, "no trial is compared with itself"
    said = " ".join(capsys.readouterr().out.split())
    assert "'trial 1': the best of 3 trials of 'sweep', chosen on these cases" in said
    assert "the baseline is the first run that was named, trial 1" in said


def test_a_damaged_table_does_not_end_the_comparison_of_the_others(store, tmp_path, capsys):
    made_run(store, "cells", "plain", BASE)
    key = made_run(store, "cells", "broken", BASE)
    next(tmp_path.glob(f"mlruns/*/{key}/artifacts/evaluation/validation/cases.csv")).write_text("case,mean_dice\na,b\n")
    assert set(verdicts(compare(output=tmp_path / "out"))) == {"plain"}
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "left out, its table of cases is damaged (ValueError: could not convert string to float: 'b'): broken" in said
    )


def test_odd_names_are_columns_and_texts_like_any_other(store, tmp_path, with_page):
    names = ["case", "run", "setting", "$lr=1$ \\frac{", "細胞"]
    for number, name in enumerate(names):
        settings = {"run": number, "case": number % 2, "verdict": number % 3}
        made_run(
            store, "cells", name, shifted(0.01 * number, seed=number), params=settings, history=[("mean_dice", 1, 0.5)]
        )
    compare(baseline="case", output=tmp_path / "out")
    header, first, *_ = csv.reader(io.StringIO((tmp_path / "out" / "cases.csv").read_text()))
    assert sorted(header) == sorted(["case", *names])
    assert first[0] == "case_00"
    assert float(first[header.index("case", 1)]) == pytest.approx(shifted(0)["case_00"])
    rows = {row["run"]: row for row in read(tmp_path / "out", "comparison.csv")}
    assert [rows[name]["params.run"] for name in names] == list("01234")
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "$lr=1$ \\frac{" in page
    assert ">run (setting)</button>" in page


def test_six_runs_of_which_two_are_better_on_purpose(store, tmp_path):
    """Three variants with two seeds each, as `docs/comparison.py` trains them: another seed moves a mean a little."""
    for number, name in enumerate(("default", "fewer-flips", "longer")):
        for seed in range(2):
            luck = np.random.default_rng([number, seed]).normal(0, 0.002)
            moved = shifted(luck + (0.03 if name == "longer" else 0), seed=10 * number + seed)
            params = {
                "seed": seed,
                "flips": 0.4 if name == "fewer-flips" else 0.5,
                "epochs": 18 if name == "longer" else 6,
            }
            made_run(store, "cells", f"{name}-{seed}", moved, params=params, contents="0" * 16)
    found = compare(baseline="default-0", output=tmp_path / "out")
    better = {name for name, verdict in verdicts(found).items() if verdict == "better"}
    assert better == {"longer-0", "longer-1"}
    assert "worse" not in verdicts(found).values()
    assert (found.seeds.variants, found.seeds.runs) == (3, 6)
    assert [column.key for column in found.columns] == ["seed", "flips", "epochs"]


def test_two_runs_of_one_name_are_told_apart(store, tmp_path):
    ids = [made_run(store, "cells", "twin", shifted(0.01 * n, seed=n)) for n in range(2)]
    found = compare(output=tmp_path / "out")
    assert {row.label for row in found.rows} == {f"twin ({key[:6]})" for key in ids}


def test_the_leaderboard_has_the_best_run_of_every_data_list(store, tmp_path, capsys):
    commit = {"mlflow.source.git.commit": "0123456789abcdef", "git.dirty": "true"}
    made_run(store, "cells", "plain", BASE)
    best = made_run(store, "cells", "long", shifted(0.03), tags=commit)
    made_run(store, "cells", "crashed", shifted(0.3), status="FAILED")
    made_run(store, "cells", "new list", {"other": 0.4}, digest="e" * 64)
    made_run(store, "organs", "only", {"scan": 0.7})
    found = leaderboard(output=tmp_path / "out")
    assert [(one.data, one.entry.label) for one in found] == [
        ("cells", "long"),
        ("cells", "new list"),
        ("organs", "only"),
    ]
    assert found[0].estimate.mean == pytest.approx(np.mean(list(shifted(0.03).values())))
    assert found[0].digest == DIGEST
    said = capsys.readouterr().out
    assert "git checkout 0123456789ab" in said
    assert re.search(rf"monai.bundle run training --config_file \S*{best}/artifacts/bundle/configs/train.json", said)
    assert [row["best run"] for row in read(tmp_path / "out", "leaderboard.csv")] == ["long", "new list", "only"]
    assert "rows of one list" not in said
    with pytest.raises(InputError, match="no finished run has a score 'test/mean_dice'"):
        leaderboard(split="test")


def test_folds_have_rows_of_their_own_on_the_leaderboard(store, tmp_path, capsys):
    for fold in range(2):
        part = {case: BASE[case] for case in CASES[fold::2]}
        made_run(store, "cells", f"run-{fold}", part, params={"fold": fold, "kind": fold})
    leaderboard(output=tmp_path / "out")
    assert "rows of one list are of other cases" in " ".join(capsys.readouterr().out.split())
    rows = read(tmp_path / "out", "leaderboard.csv")
    assert [(row["best run"], row["fold"], row["cases"]) for row in rows] == [("run-0", "0", "8"), ("run-1", "1", "8")]
