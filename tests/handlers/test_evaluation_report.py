"""Tables, JSON and pictures of a few hand-made cases."""

import csv
import hashlib
import json
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from engines import scoring_evaluator
from forked_ranks import in_ranks
from mlflow.tracking import MlflowClient
from PIL import Image

from pipeline import ranks
from pipeline.handlers.case_scores import CaseScores, mean_scores
from pipeline.handlers.evaluation_report import EvaluationReport, score_table, summary, table
from pipeline.slices import read_slices
from pipeline.sweeps.trial import read_cases
from pipeline.tracking import Tracking
from pipeline.volumes.contents import case_digest, look_at

NAMES = ["background", "cell"]
N_A = float("nan")
ROWS = [
    {"case": "a", "mean_dice": 0.5, "dice/x": 0.5, "dice/y": N_A},
    {"case": "b", "mean_dice": 0.0, "dice/x": 0.0, "dice/y": N_A},
    {"case": "c", "mean_dice": N_A, "dice/x": N_A, "dice/y": N_A},
    {"case": "d", "mean_dice": 1.0, "dice/x": 1.0, "dice/y": N_A},
]


def strict(text):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def case(name, found, of=4, side=8, invented=0):
    """A picture whose truth is one row of `of` pixels, of which `found` are predicted; Dice 2 found / (found + of)."""
    truth, prediction = np.zeros((2, side, side), np.int64)
    truth[0, :of] = 1
    prediction[0, :found] = 1
    prediction[-1, :invented] = 1
    return name, truth, prediction


FIVE = [case("half", 2), case("all", 4), case("none", 0), case("most", 3), case("one", 1)]  # 2/3, 1, 0, 6/7, 2/5


def evaluated(cases, **options):
    scores = CaseScores(NAMES)
    report = EvaluationReport(scores, "validation", **options)
    engine = scoring_evaluator(cases, NAMES, [report], scores)
    engine.run()
    return report


def test_the_table_has_an_empty_field_for_n_a():
    text = table(ROWS)
    assert text.splitlines()[0] == "case,mean_dice,dice/x,dice/y"
    assert text.splitlines()[1:] == ["a,0.5,0.5,", "b,0.0,0.0,", "c,,,", "d,1.0,1.0,"]
    assert table([]) == "case\n"


def test_names_with_commas_keep_their_column():
    (row,) = csv.DictReader(table([{"case": 'slide 1, "left"', "dice/a,b": 0.5}]).splitlines())
    assert row == {"case": 'slide 1, "left"', "dice/a,b": "0.5"}


def test_the_summary_by_hand():
    found = summary(ROWS)
    assert found["cases"] == 4
    # 0.5, 0, 1 without the n/a: mean 1/2, variance (0 + 1/4 + 1/4) / 3.
    expected = {"cases": 3, "not_applicable": 1, "mean": 0.5, "std": 0.408248, "lowest": 0.0, "highest": 1.0}
    assert found["scores"]["mean_dice"] == expected
    assert found["scores"]["dice/y"] == {"cases": 0, "not_applicable": 4}
    assert strict(json.dumps(found)) == found
    assert summary([]) == {"cases": 0, "scores": {}}


def test_the_table_of_scores():
    lines = score_table(summary(ROWS)).splitlines()
    assert lines[0] == "| score over 4 cases | mean | std | lowest | highest | n/a |"
    assert "| mean_dice | 0.5000 | 0.4082 | 0.0000 | 1.0000 | 1 |" in lines
    assert "| dice/y | n/a | n/a | n/a | n/a | 4 |" in lines


def test_scores_of_the_stack_stand_apart():
    found = summary(ROWS, {"rand_error": 0.0136214, "vrand": N_A})
    assert found["stack"] == {"rand_error": 0.013621, "vrand": None}
    assert found["scores"] == summary(ROWS)["scores"]
    assert strict(json.dumps(found)) == found
    cases, of_stack = score_table(found).split("\n\n")
    assert cases == score_table(summary(ROWS))
    assert of_stack.splitlines() == [
        "| score of 4 cases as one stack | value |",
        "|---|---|",
        "| rand_error | 0.0136 |",
        "| vrand | n/a |",
    ]


def test_tables_and_pictures_of_an_evaluation(tmp_path):
    files = evaluated([*FIVE, case("empty", 0, of=0, invented=3)], pictures=2).write(tmp_path)
    names = ["cases.csv", "scores.json", "slices.npz", "worst.png", "best.png", "report.html"]
    assert [file.name for file in files] == names
    with files[0].open() as stream:
        rows = {row["case"]: row["mean_dice"] for row in csv.DictReader(stream)}
    expected = {"half": 2 / 3, "all": 1, "none": 0, "most": 6 / 7, "one": 2 / 5}
    assert rows.pop("empty") == ""
    assert {name: float(value) for name, value in rows.items()} == pytest.approx(expected)
    scores = strict(files[1].read_text())
    assert scores["split"] == "validation"
    assert scores["cases"] == 6
    assert scores["scores"]["mean_dice"]["not_applicable"] == 1
    assert scores["scores"]["mean_dice"]["mean"] == pytest.approx(sum(expected.values()) / 5, abs=1e-6)
    for file in files[3:5]:
        assert len(np.unique(np.asarray(Image.open(file)).reshape(-1, 4), axis=0)) > 10, "blank"


def test_only_the_extreme_cases_are_kept_the_most_extreme_first():
    extremes = evaluated(FIVE, pictures=2).extremes
    assert [(kept["case"], kept["score"]) for kept in extremes["worst"]] == [("none", 0), ("one", pytest.approx(0.4))]
    assert [kept["case"] for kept in extremes["best"]] == ["all", "most"]


def seen_by_ranks(tie):
    cases = [*FIVE, *([case("another half", 2)] if tie else [])]
    share = cases[ranks.rank() :: ranks.size()] or cases[:1]  # a rank that would have none takes another's
    report = evaluated(share, pictures=2)
    report.gather()
    names = {kind: [picture["case"] for picture in found] for kind, found in report.extremes.items()}
    return names, sorted(report.kept.slices), [row["case"] for row in report.engine.state.metric_details["cases"]]


@pytest.mark.parametrize(("size", "tie"), [(2, True), (6, False)])
def test_the_first_rank_has_the_pictures_of_all(size, tie):
    alone = seen_by_ranks(tie)
    assert alone[0] == {"worst": ["none", "one"], "best": ["all", "most"]}
    first, *others = in_ranks(size, seen_by_ranks, tie)
    assert first == alone
    assert all(rows == alone[2] for *_, rows in others)


def test_a_picture_is_the_case_itself():
    (kept,) = evaluated([case("half", 2)]).extremes["worst"]
    _, truth, prediction = case("half", 2)
    np.testing.assert_array_equal(kept["truth"], truth)
    np.testing.assert_array_equal(kept["prediction"], prediction)
    np.testing.assert_array_equal(kept["image"], prediction)  # what the identity was given


def test_of_a_volume_the_slice_with_most_foreground_is_shown():
    truth, prediction = np.zeros((2, 6, 5, 4), np.int64)
    truth[0, :3, 0], truth[:4, :4, 2], prediction[:3, :4, 2], prediction[0, 0, 3] = 1, 1, 1, 1
    (kept,) = evaluated([("volume", truth, prediction)]).extremes["best"]
    np.testing.assert_array_equal(kept["truth"], truth[..., 2])
    np.testing.assert_array_equal(kept["prediction"], prediction[..., 2])
    np.testing.assert_array_equal(kept["image"], prediction[..., 2])


def test_cases_without_a_score_are_not_pictured(tmp_path):
    report = evaluated([case("empty", 0, of=0), case("invented", 0, of=0, invented=2)])
    assert report.extremes == {"worst": [], "best": []}
    assert [file.name for file in report.write(tmp_path)] == ["cases.csv", "scores.json", "slices.npz", "report.html"]
    assert (tmp_path / "cases.csv").read_text().splitlines()[1:] == ["empty,,,,,", "invented,,,,,"]
    assert strict((tmp_path / "scores.json").read_text())["scores"]["mean_dice"] == {"cases": 0, "not_applicable": 2}


def test_a_second_evaluation_starts_with_no_pictures():
    report = evaluated(FIVE)
    report.engine.data_loader = report.engine.data_loader[:1]
    report.engine.state.epoch_length = 1
    report.engine.run()
    assert [kept["case"] for kept in report.extremes["worst"]] == ["half"]


def test_slices_of_every_case_are_kept_also_of_one_without_a_score(tmp_path):
    evaluated([*FIVE, case("empty", 0, of=0, invented=3)]).write(tmp_path)
    kept = read_slices((tmp_path / "slices.npz").read_bytes())
    assert kept.keys() == {"half", "all", "none", "most", "one", "empty"}
    _, truth, prediction = case("half", 2)
    np.testing.assert_array_equal(kept["half"].truth, truth)
    np.testing.assert_array_equal(kept["half"].prediction, prediction)
    assert kept["half"].score == pytest.approx(2 / 3)
    assert np.isnan(kept["empty"].score)


def test_with_a_folder_it_is_written_at_the_end_by_the_first_rank(tmp_path):
    evaluated(FIVE, folder=tmp_path / "first")
    assert {file.name for file in (tmp_path / "first").iterdir()} == {
        "cases.csv",
        "scores.json",
        "slices.npz",
        "report.html",
        "worst.png",
        "best.png",
    }
    scores = CaseScores(NAMES)
    engine = scoring_evaluator(FIVE, NAMES, [EvaluationReport(scores, "test", tmp_path / "second")], scores)
    engine.state.rank = 1
    engine.run()
    assert not (tmp_path / "second").exists()


class Listed(list):
    """Batches of a data set that knows its records."""

    def __init__(self, batches, records):
        super().__init__(batches)
        self.dataset = SimpleNamespace(data=records)


def test_the_table_names_the_content_of_the_files_that_were_checked(tmp_path):
    report = evaluated(FIVE)
    records = []
    for name, truth, _ in FIVE:
        Image.fromarray(truth.astype(np.uint8)).save(tmp_path / f"{name}.png")
        records.append({"id": name, "image": str(tmp_path / f"{name}.png"), "label": str(tmp_path / f"{name}.png")})
    report.engine.data_loader = Listed(report.engine.data_loader, records)
    report.write(tmp_path / "unseen")
    assert "data" not in (tmp_path / "unseen" / "cases.csv").read_text().splitlines()[0]
    for record in records:
        look_at(record["image"], 2)
    report.write(tmp_path / "seen")
    with (tmp_path / "seen" / "cases.csv").open() as stream:
        found = {row["case"]: row["data"] for row in csv.DictReader(stream)}
    assert found == {record["id"]: case_digest(record) for record in records}
    assert summary(read_cases(tmp_path / "seen" / "cases.csv")) == report._summary()


def test_rows_with_a_digest_and_without_make_one_table():
    rows = [{"case": "a", "mean_dice": 0.5}, {"case": "b", "mean_dice": 0.7, "data": "0" * 16}]
    assert table(rows).splitlines() == ["case,mean_dice,data", "a,0.5,", "b,0.7,0000000000000000"]
    assert mean_scores(rows[::-1]) == {"mean_dice": pytest.approx(0.6)}


@pytest.mark.parametrize("trained_here", [True, False])
def test_mlflow_run_beneath_the_one_that_trained(trained_here, tmp_path, empty_store):
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("discs").experiment_id
    parent = client.create_run(experiment).info.run_id
    run = tmp_path / "discs-1"
    run.mkdir()
    facts = {"mlflow_run_id": parent, "mlflow_uri": uri if trained_here else "sqlite:///elsewhere.db"}
    (run / "run.json").write_text(json.dumps(facts))
    tracking = Tracking(uri, "discs", system_metrics_every=0)
    (tmp_path / "list.json").write_text("{}")
    config = {"network": {"channels": [4, 8]}, "resume": False}
    origin = {"config": config, "data_list": tmp_path / "list.json", "tags": {"bundle": "unet", "seed": 3}}
    evaluated(FIVE, folder=tmp_path / "out", tracking=tracking, bundle_root=run, **origin)
    (made,) = [found for found in client.search_runs([experiment]) if found.info.run_id != parent]
    assert made.info.run_name == "validation of discs-1"
    assert made.info.status == "FINISHED"
    assert made.data.params == {"network/channels": "[4, 8]"}
    tags = made.data.tags
    assert tags.get("mlflow.parentRunId") == (parent if trained_here else None)
    assert (tags["bundle"], tags["seed"], tags["device"], tags["evaluation"]) == ("unet", "3", "cpu", "validation")
    assert tags["data_list.digest"] == hashlib.sha256(b"{}").hexdigest()
    assert tags["bundle_root"] == str(run)
    assert {"host", "mlflow.user", "pipeline.version"} <= tags.keys()
    assert made.data.metrics["validation/mean_dice"] == pytest.approx((2 / 3 + 1 + 0 + 6 / 7 + 2 / 5) / 5)


def fail(number):
    raise ZeroDivisionError


ENDS = {
    "error": (fail, 0, ZeroDivisionError, "FAILED"),
    "SIGINT": (signal.raise_signal, signal.SIGINT, KeyboardInterrupt, "KILLED"),
    "SIGTERM": (signal.raise_signal, signal.SIGTERM, SystemExit, "KILLED"),
    "SIGHUP": (signal.raise_signal, signal.SIGHUP, SystemExit, "KILLED"),
}


@pytest.mark.parametrize(
    ("end", "step"), [("error", "artifact"), ("SIGINT", "start"), ("SIGTERM", "artifact"), ("SIGHUP", "end")]
)
def test_an_evaluation_that_is_stopped_leaves_no_run_running(end, step, tmp_path, empty_store, monkeypatch):
    do, number, error, status = ENDS[end]
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    real, calls = getattr(Tracking, step), []

    def be_stopped(*arguments, **options):
        made = real(*arguments, **options) if step == "start" else None
        calls.append(step)
        if len(calls) == 1:
            do(number)
        return made if step == "start" else real(*arguments, **options)

    monkeypatch.setattr(Tracking, step, be_stopped)
    tracking = Tracking(f"sqlite:///{tmp_path}/mlflow.db", "discs", system_metrics_every=0)
    with pytest.raises(error):
        evaluated(FIVE, folder=tmp_path / "out", tracking=tracking, bundle_root=tmp_path, config={"fold": 0})
    client = MlflowClient(tracking.uri)
    (made,) = client.search_runs([client.get_experiment_by_name("discs").experiment_id])
    assert made.info.status == status
