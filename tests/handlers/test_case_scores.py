"""By hand: rows of four pixels, classes background, a and b."""

import math

import numpy as np
import pytest
import torch
from engines import scoring_evaluator
from ignite.engine import Engine
from monai.data import MetaTensor

from pipeline.errors import InputError
from pipeline.handlers.case_scores import CaseScores, higher_is_better, mean_scores
from pipeline.metrics.instance_scores import average_precision
from pipeline.metrics.pixel_error import pixel_error, pixel_error_details
from pipeline.metrics.rand_error import rand_error, rand_error_details
from pipeline.metrics.surface import hd95, surface_dice
from pipeline.metrics.vinfo import vinfo, vinfo_details
from pipeline.metrics.vrand import vrand, vrand_details
from pipeline.metrics.warping_error import warping_error, warping_error_details

NAMES = ["background", "a", "b"]
N_A = pytest.approx(float("nan"), nan_ok=True)

# a: 2 of 2 + 1 pixels found (Dice 2/3, IoU 1/2); b: right
HALF_OF_A = ("half of a", [[1, 1, 2, 0]], [[1, 0, 2, 0]])
# b is invented, and not in the truth: a is 2 * 1 / (1 + 2), b n/a
B_INVENTED = ("b invented", [[1, 0, 0, 0]], [[1, 1, 2, 2]])
ALL_WRONG = ("all wrong", [[1, 1, 2, 2]], [[2, 2, 1, 1]])
EMPTY = ("empty", [[0, 0, 0, 0]], [[0, 1, 2, 0]])


def item(case, truth, prediction, **more):
    return {"id": case, "label": torch.tensor(truth)[None], "pred": torch.tensor(prediction)[None], **more}


def scored(*cases, **measures):
    scores = CaseScores(NAMES, **measures)
    for case in cases:
        scores.update(case if isinstance(case, dict) else item(*case))
    return scores


def test_a_case_by_hand():
    (row,) = scored(HALF_OF_A).rows
    expected = {"mean_dice": 5 / 6, "dice/a": 2 / 3, "dice/b": 1, "mean_iou": 3 / 4, "iou/a": 1 / 2, "iou/b": 1}
    expected["accuracy"] = 3 / 4
    assert row.pop("case") == "half of a"
    assert row == pytest.approx(expected)


def test_a_class_that_the_truth_lacks_is_left_out_of_the_cases_mean():
    (row,) = scored(B_INVENTED).rows
    assert row["dice/b"] == N_A
    assert row["iou/b"] == N_A
    assert row["mean_dice"] == pytest.approx(2 / 3), "neither (2/3 + 0) / 2 nor (2/3 + 1) / 2"
    assert row["mean_iou"] == pytest.approx(1 / 2)


def test_a_case_without_foreground_is_left_out_of_the_mean_over_cases():
    scores = scored(HALF_OF_A, EMPTY)
    assert scores.rows[1]["mean_dice"] == N_A
    assert scores.compute() == pytest.approx(5 / 6)
    means = mean_scores(scores.rows)
    assert means["dice/a"] == pytest.approx(2 / 3)
    assert "case" not in means


def test_a_score_of_zero_is_not_n_a():
    scores = scored(ALL_WRONG, HALF_OF_A)
    assert scores.rows[0]["mean_dice"] == 0
    assert scores.compute() == pytest.approx(5 / 12)


def test_all_n_a_is_n_a():
    scores = scored(EMPTY, EMPTY)
    assert math.isnan(scores.compute())
    assert all(math.isnan(value) for value in mean_scores(scores.rows).values())


def test_no_cases_are_n_a():
    assert math.isnan(CaseScores(NAMES).compute())
    assert mean_scores([]) == {}


@pytest.mark.parametrize(
    ("current", "best", "expected"),
    [
        (0.6, 0.5, True),
        (0.5, 0.5, False),
        (0.4, 0.5, False),
        (0.0, float("nan"), True),
        (float("nan"), 0.0, False),
        (float("nan"), -1.0, False),
        (float("nan"), float("nan"), False),
    ],
)
def test_a_number_beats_n_a_and_n_a_beats_nothing(current, best, expected):
    assert bool(higher_is_better(current, best)) is expected


def evaluator(*cases):
    return scoring_evaluator([(name, np.array(t), np.array(p)) for name, t, p in cases], NAMES)


def test_an_evaluator_has_means_and_rows():
    engine = evaluator(HALF_OF_A, ALL_WRONG, B_INVENTED, EMPTY)
    engine.run()
    rows = engine.state.metric_details["cases"]
    assert [row["case"] for row in rows] == ["all wrong", "b invented", "empty", "half of a"]
    # Per case 0, 2/3, n/a, 5/6; class a 0, 2/3, n/a, 2/3; class b 0, n/a, n/a, 1.
    assert engine.state.metrics["mean_dice"] == pytest.approx(1 / 2)
    assert engine.state.metrics["dice/a"] == pytest.approx(4 / 9)
    assert engine.state.metrics["dice/b"] == pytest.approx(1 / 2)
    assert engine.state.metrics["iou/b"] == pytest.approx(1 / 2)
    assert engine.state.key_metric_name == "mean_dice"
    assert engine.state.best_metric == pytest.approx(1 / 2)


def test_an_evaluation_forgets_the_one_before():
    engine = evaluator(HALF_OF_A, ALL_WRONG)
    engine.run(1)
    engine.run(2)
    assert len(engine.state.metric_details["cases"]) == 2


def test_cases_of_a_batch_are_scored_one_by_one():
    engine = evaluator(HALF_OF_A)
    stacked = {"image": [HALF_OF_A[2], EMPTY[2]], "label": [HALF_OF_A[1], EMPTY[1]]}
    engine.data_loader = [{key: torch.tensor(value)[:, None] for key, value in stacked.items()} | {"id": ["x", "y"]}]
    engine.run()
    assert [row["mean_dice"] for row in engine.state.metric_details["cases"]] == [pytest.approx(5 / 6), N_A]


def test_distances_are_in_the_unit_of_the_spacing():
    # A pixel of a moves by one row, 2 mm, and two columns, 3 mm each; b stays. The plane lies freely in space.
    truth, prediction = np.zeros((2, 4, 5), np.int64)
    truth[0, 0] = prediction[1, 2] = 1
    truth[3, 4] = prediction[3, 4] = 2
    affine = torch.tensor([[0.0, 3, 0, 9], [0, 0, 7, 9], [2, 0, 0, 9], [0, 0, 0, 1]], dtype=torch.float64)
    measures = {"hd95": hd95, "surface_dice": lambda *pair, spacing: surface_dice(*pair, 7.0, spacing)}
    case = item("a", truth, prediction)
    (row,) = scored(case, surface_measures={"hd95": hd95}).rows
    assert row["hd95/a"] == pytest.approx(math.hypot(1, 2))
    case["label"] = MetaTensor(case["label"], affine=affine)
    (row,) = scored(case, surface_measures=measures).rows
    assert row["hd95/a"] == pytest.approx(math.hypot(2, 6))
    assert row["hd95/b"] == 0
    assert row["mean_hd95"] == pytest.approx(math.hypot(2, 6) / 2)
    assert row["mean_surface_dice"] == 1, "6.3 mm are within the tolerance"


def test_a_class_that_the_prediction_lacks_is_as_far_as_the_image_is_large():
    case = item("a", [[1, 0, 0, 0], [0, 0, 0, 2]], [[1, 0, 0, 0], [0, 0, 0, 0]])
    case["label"] = MetaTensor(case["label"], affine=torch.diag(torch.tensor([5.0, 4.0, 1.0, 1.0])))
    (row,) = scored(case, surface_measures={"d": hd95}).rows
    assert (row["d/a"], row["d/b"]) == (0, pytest.approx(math.hypot(5, 12))), "from corner to corner"
    invented, nothing = scored(B_INVENTED, EMPTY, surface_measures={"d": hd95}).rows
    assert [invented["d/b"], nothing["d/a"], nothing["mean_d"]] == [N_A] * 3


def test_probability_measures_see_the_foreground():
    seen = []

    def measure(truth, probability):
        seen.append((truth.tolist(), probability.round(3).tolist()))
        return 0.25

    softmax = torch.tensor([[[0.1, 0.9, 0.0, 1.0]], [[0.7, 0.1, 0.0, 0.0]], [[0.2, 0.0, 1.0, 0.0]]])
    sigmoid = torch.tensor([[[0.9, 0.1, 1.0, 0.0]]])
    for probabilities in (softmax, sigmoid):
        case = item(*HALF_OF_A, probabilities=probabilities)
        (row,) = scored(case, probability_measures={"m": measure}).rows
        assert row["m"] == 0.25
    assert seen[0] == seen[1] == ([[True, True, True, False]], [[pytest.approx(x) for x in (0.9, 0.1, 1.0, 0.0)]])
    (row,) = scored(case, probability_measures={"pixel_error": pixel_error}).rows
    # Above 0.0: 3 of 3 cells, and no other.
    assert row["pixel_error"] == 0


def test_instance_measures_see_the_ids():
    truth, prediction = torch.tensor([[[7, 7, 4, 0]]]), torch.tensor([[[1, 1, 0, 2]]]).to(torch.uint16)
    case = item(*HALF_OF_A, label_instances=truth, pred_instances=prediction)
    (row,) = scored(case, instance_measures={"ap": average_precision}).rows
    assert row["ap"] == pytest.approx(1 / 3), "one found, one missed, one invented"


def test_a_measure_that_is_n_a_in_a_case_is_left_out_of_the_mean():
    cases = [
        item(*HALF_OF_A, probabilities=torch.tensor([[[1.0, 0.0, 1.0, 0.0]]])),
        item(*EMPTY, probabilities=torch.tensor([[[0.0, 1.0, 1.0, 0.0]]])),
    ]
    scores = scored(*cases, probability_measures={"pixel_error": pixel_error})
    assert scores.rows[1]["pixel_error"] == N_A
    assert mean_scores(scores.rows)["pixel_error"] == pytest.approx(1 - 4 / 5), "2 found of 3, F = 2 * 2 / (3 + 2)"


def test_what_is_missing_is_named():
    with pytest.raises(InputError, match=r"case 'half of a': there is no 'label_instances'.*measures_instances\.yaml"):
        scored(HALF_OF_A, instance_measures={"ap": average_precision})


def test_an_epoch_without_a_score_is_never_the_best():
    engine = evaluator(EMPTY)
    engine.run(1)
    for epoch, case in ((2, HALF_OF_A), (3, EMPTY), (4, ALL_WRONG)):
        engine.data_loader = evaluator(case).data_loader
        engine.run(epoch)
        assert engine.state.best_metric_epoch == 2
    assert engine.state.best_metric == pytest.approx(5 / 6)


def completed(scores):
    engine = Engine(lambda engine, batch: None)
    engine.state.metric_details = {}
    scores.completed(engine, "mean_dice")
    return engine


def completed_on_two_ranks(monkeypatch, ours, theirs):
    of_others = {id(ours.rows): theirs.rows, id(ours.details): theirs.details}

    def gather(parts, of_rank):
        parts[:] = [of_rank, of_others[id(of_rank)]]

    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    return completed(ours)


def test_the_mean_is_over_the_cases_of_all_ranks(monkeypatch):
    ours, theirs = scored(HALF_OF_A), scored(ALL_WRONG, B_INVENTED, EMPTY)

    engine = completed_on_two_ranks(monkeypatch, ours, theirs)
    assert [row["case"] for row in engine.state.metric_details["cases"]] == [
        "all wrong",
        "b invented",
        "empty",
        "half of a",
    ]
    # (0 + 2/3 + 5/6) / 3, not the mean of the ranks' means, (5/6 + 1/3) / 2.
    assert engine.state.metrics["mean_dice"] == pytest.approx(1 / 2)


STACK = {
    "pixel_error": (pixel_error, pixel_error_details),
    "rand_error": (rand_error, rand_error_details),
    "warping_error": (warping_error, warping_error_details),
    "vrand": (vrand, vrand_details),
    "vinfo": (vinfo, vinfo_details),
}
DETAILS = {name: details for name, (_, details) in STACK.items()}


def of_stack(truth, probability):
    return {name: measure(truth, probability) for name, (measure, _) in STACK.items()}


def drifting_slices(count=4, size=40):
    """Square cells with membranes between, one slice without a cell, and a P(cell) that falls from slice to slice."""
    rows, columns = np.mgrid[:size, :size]
    truth = np.tile((rows % 8 > 0) & (columns % 8 > 0), (count, 1, 1))
    truth[2] = False
    noise = np.random.default_rng(1).normal(0, 0.1, truth.shape)
    level = np.linspace(0.25, -0.25, count)[:, None, None]
    return truth, (np.where(truth, 0.65, 0.35) + level + noise).clip(0, 1).astype(np.float32)


def cases_of(truth, probability):
    for i, (mask, foreground) in enumerate(zip(truth, probability, strict=True)):
        yield item(f"case {i}", mask.astype(int), mask, probabilities=torch.tensor(foreground)[None])


@pytest.mark.parametrize("shape", [(4, 40, 40), (2, 2, 40, 40)], ids=["slices", "volumes"])
def test_cases_are_one_stack_with_one_threshold(shape):
    truth, probability = drifting_slices()
    cases = cases_of(truth.reshape(shape), probability.reshape(shape))
    engine = completed(scored(*cases, probability_measures=DETAILS))
    assert engine.state.metric_details["stack"] == of_stack(truth, probability), "exactly"
    metrics = engine.state.metrics
    assert {name: metrics[name] for name in STACK} == of_stack(truth, probability)
    for name in ("pixel_error", "rand_error"):
        assert metrics[f"{name}_own_threshold"] < 0.96 * metrics[name], "a threshold for each case flatters"


def test_rows_have_each_case_by_itself():
    truth, probability = drifting_slices()
    rows = scored(*cases_of(truth, probability), probability_measures=DETAILS).rows
    for name, (measure, _) in STACK.items():
        alone = [measure(*pair) for pair in zip(truth, probability, strict=True)]
        assert [row[f"{name}_own_threshold"] for row in rows] == [pytest.approx(x, nan_ok=True) for x in alone]
        assert name not in rows[0], "it would read as the measure of the stack"


def test_a_slice_of_membrane_counts_in_the_stack():
    cells = item("a", [[1, 1, 0, 0]], [[1, 1, 0, 0]], probabilities=torch.tensor([[[1.0, 1.0, 0.0, 0.0]]]))
    membrane = item("b", [[0, 0, 0, 0]], [[1, 0, 0, 0]], probabilities=torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]))
    scores = scored(cells, membrane, probability_measures={"pixel_error": pixel_error_details})
    assert scores.rows[1]["pixel_error_own_threshold"] == N_A
    assert completed(scores).state.metrics["pixel_error"] == pytest.approx(1 - 4 / 5), "2 found, 1 invented"


def test_a_split_without_a_cell_is_n_a():
    case = item(*EMPTY, probabilities=torch.tensor([[[0.0, 1.0, 1.0, 0.0]]]))
    stack = completed(scored(case, probability_measures=DETAILS)).state.metric_details["stack"]
    assert stack == dict.fromkeys(STACK, N_A)


def test_the_stack_has_the_slices_of_all_ranks(monkeypatch):
    truth, probability = drifting_slices()
    cases = list(cases_of(truth, probability))
    ours, theirs = (scored(*cases[rank::2], probability_measures=DETAILS) for rank in (1, 0))
    engine = completed_on_two_ranks(monkeypatch, ours, theirs)
    assert engine.state.metric_details["stack"] == of_stack(truth, probability)


def test_a_stack_forgets_the_one_before():
    truth, probability = drifting_slices()
    scores = scored(*cases_of(truth, probability), probability_measures=DETAILS)
    scores.reset()
    assert completed(scores).state.metric_details["stack"] == {}
    scores.update(next(cases_of(truth, probability)))
    assert completed(scores).state.metric_details["stack"] == of_stack(truth[0], probability[0])
