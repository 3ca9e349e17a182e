"""The best weights and no others; a state that restores all but what the config says otherwise today."""

import json
import math
import os
from types import SimpleNamespace

import pytest
import torch
from engines import scripted_evaluator, trainer
from ignite.engine import Events
from monai.handlers import LrScheduleHandler
from monai.optimizers import WarmupCosineSchedule
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LinearLR, SequentialLR, StepLR

from pipeline.errors import InputError
from pipeline.handlers.checkpoints import Checkpoints, best_of, rows_of, save_tensors
from pipeline.handlers.history import History
from pipeline.run_folder import RunFolder

N_A = float("nan")


def training(
    folder, scores, *, epochs=None, resume=False, interval=1, schedule=None, network=None, optimizer=None, first=()
):
    """A run in `folder` with everything that its checkpoints know, not yet started."""
    network = network or torch.nn.Linear(3, 2)
    optimizer = optimizer or torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    scheduler = schedule(optimizer) if schedule else None
    evaluator, run = scripted_evaluator(scores), RunFolder(folder, "a", resume)
    engine = trainer(
        [
            *first,
            *([LrScheduleHandler(scheduler, print_lr=False)] if scheduler else []),
            History(optimizer, evaluator),
            Checkpoints(run, network, optimizer, evaluator, scheduler),
        ],
        epochs=epochs or len(scores),
        network=network,
        optimizer=optimizer,
        evaluator=evaluator,
        interval=interval,
    )
    engine.add_event_handler(Events.COMPLETED, run.release)
    return SimpleNamespace(
        engine=engine, run=run, network=network, optimizer=optimizer, scheduler=scheduler, evaluator=evaluator
    )


def weights_of_epochs(made):
    """Run, and return for each epoch which epoch's weights `model.pt` had when it ended."""
    seen, kept = [], []

    @made.engine.on(Events.EPOCH_COMPLETED)
    def look():
        seen.append(made.network.weight.detach().clone())
        saved = torch.load(made.run.best_model, weights_only=True)["weight"]
        kept.extend(epoch for epoch, weight in enumerate(seen, 1) if torch.equal(weight, saved))

    made.engine.run()
    return kept


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.2, 0.5, 0.4, 0.6, 0.1], [1, 2, 2, 4, 4]),
        ([0.5, 0.5, 0.5], [1, 1, 1]),
        ([N_A, 0.3, N_A, 0.2], [1, 2, 2, 2]),
        ([N_A, N_A], [1, 1]),
        ([0.0, N_A], [1, 1]),
    ],
)
def test_the_best_model_is_written_only_when_the_epoch_is_the_best(tmp_path, scores, best):
    assert weights_of_epochs(training(tmp_path, scores)) == best


@pytest.mark.parametrize(
    ("interval", "best"),
    [(2, [1, 2, 2, 2, 2]), (3, [1, 2, 3, 3, 3]), (9, [1, 2, 3, 4, 5])],
)
def test_before_the_first_validation_the_latest_weights_are_the_best_known(tmp_path, interval, best):
    assert weights_of_epochs(training(tmp_path, [0.5, 0.4, 0.3, 0.2, 0.1], interval=interval)) == best


def test_the_checkpoint_holds_the_whole_state(tmp_path):
    made = training(tmp_path, [0.2, 0.5, 0.4], schedule=lambda optimizer: ExponentialLR(optimizer, 0.5))
    made.engine.run()
    state = torch.load(made.run.last_checkpoint, weights_only=True)
    assert set(state) == {"network", "optimizer", "scheduler", "settings", "trainer", "best"}
    assert state["best"] == {"metric": 0.5, "epoch": 2}
    assert state["trainer"]["epoch"] == 3
    assert [row["val/mean_dice"] for row in rows_of(state["trainer"]["history"])] == [0.2, 0.5, 0.4]
    assert torch.equal(state["network"]["weight"], made.network.weight)
    assert state["scheduler"]["last_epoch"] == 3


def test_a_resumed_run_is_where_the_first_one_stopped(tmp_path):
    first = training(tmp_path, [0.2, 0.5, 0.4], schedule=lambda optimizer: ExponentialLR(optimizer, 0.5))
    first.engine.run()
    again = training(tmp_path, [9.0] * 3 + [0.3], resume=True, schedule=lambda optimizer: ExponentialLR(optimizer, 0.5))
    found = {}

    @again.engine.on(Events.EPOCH_STARTED)
    def look(engine):
        found.update(epoch=engine.state.epoch, rate=again.optimizer.param_groups[0]["lr"])
        found["weight"] = again.network.weight.detach().clone()
        found["momentum"] = again.optimizer.state_dict()["state"][0]["momentum_buffer"].clone()

    again.engine.run()
    assert found["epoch"] == 4
    assert found["rate"] == 0.1 / 8
    assert torch.equal(found["weight"], first.network.weight)
    assert torch.equal(found["momentum"], first.optimizer.state_dict()["state"][0]["momentum_buffer"])
    assert again.engine.state.iteration == 4
    assert [row["epoch"] for row in again.engine.state.history] == [1, 2, 3, 4]
    assert (again.evaluator.state.best_metric, again.evaluator.state.best_metric_epoch) == (0.5, 2)


def test_a_new_run_looks_at_no_checkpoint(tmp_path):
    training(tmp_path / "first", [0.5]).engine.run()
    other = training(tmp_path / "other", [0.1])
    other.engine.run()
    assert other.evaluator.state.best_metric == 0.1
    assert other.engine.state.epoch == 1


class Scaled:
    """Give a trainer a scaler, as a GPU does when training starts."""

    def __init__(self, scale):
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale)

    def attach(self, engine):
        engine.add_event_handler(Events.STARTED, lambda: setattr(engine, "scaler", self.scaler))


def test_the_scale_of_mixed_precision_is_restored(tmp_path):
    training(tmp_path, [0.5], first=[Scaled(8.0)]).engine.run()
    scaled = Scaled(1024.0)
    training(tmp_path, [0.5, 0.5], resume=True, first=[scaled]).engine.run()
    assert scaled.scaler.get_scale() == 8.0


def half_cosine(step, steps):
    return 0.05 * (1 + math.cos(math.pi * step / steps))


def warmed_up(optimizer):
    """Half, three quarters, all of the rate, and then half of it each epoch."""
    parts = [LinearLR(optimizer, 0.5, total_iters=2), ExponentialLR(optimizer, 0.5)]
    return SequentialLR(optimizer, parts, milestones=[2])


SCHEDULES = [
    (lambda optimizer, epochs: WarmupCosineSchedule(optimizer, warmup_steps=0, t_total=epochs), half_cosine),
    (lambda optimizer, epochs: CosineAnnealingLR(optimizer, T_max=epochs), half_cosine),
    (
        lambda optimizer, epochs: LinearLR(optimizer, 1.0, 0.1, total_iters=epochs),
        lambda step, steps: 0.1 * (1 - 0.9 * step / steps),
    ),
]


@pytest.mark.parametrize(("schedule", "rate"), SCHEDULES, ids=["WarmupCosine", "CosineAnnealing", "Linear"])
@pytest.mark.parametrize("longer", [3, 6, 8])
def test_a_run_resumed_with_more_epochs_follows_the_longer_schedule(tmp_path, schedule, rate, longer):
    training(tmp_path, [0.5] * 3, schedule=lambda optimizer: schedule(optimizer, 3)).engine.run()
    again = training(tmp_path, [0.5] * 8, epochs=8, resume=True, schedule=lambda optimizer: schedule(optimizer, longer))
    again.engine.run()
    rates = [row["train/learning_rate"] for row in again.engine.state.history]
    assert rates[:3] == pytest.approx([rate(step, 3) for step in range(3)])
    if longer > 3:
        assert rates[3:longer] == pytest.approx([rate(step, longer) for step in range(3, longer)])
    else:  # nothing changed: the fourth epoch has the rate that the first run left
        assert rates[3] == pytest.approx(rate(3, 3))


def sgd(network, **options):
    return torch.optim.SGD(network.parameters(), **{"lr": 0.1, "momentum": 0.9, **options})


def resumed(folder, epochs, schedule=None, **options):
    """A run of three epochs, resumed with other settings of its optimizer; returns it, and the rates of all epochs."""
    training(folder, [0.5] * 3, schedule=schedule).engine.run()
    network = torch.nn.Linear(3, 2)
    optimizer = sgd(network, **options)
    made = training(folder, [0.5] * epochs, resume=True, schedule=schedule, network=network, optimizer=optimizer)
    made.engine.run()
    return made, [row["train/learning_rate"] for row in made.engine.state.history]


def test_a_resumed_run_follows_the_learning_rate_of_the_config(tmp_path):
    _, rates = resumed(tmp_path, 5, lr=0.02)
    assert rates == [0.1, 0.1, 0.1, 0.02, 0.02]


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        (
            lambda optimizer: WarmupCosineSchedule(optimizer, warmup_steps=0, t_total=8),
            lambda step: 10 * half_cosine(step, 8),
        ),
        (lambda optimizer: CosineAnnealingLR(optimizer, T_max=8), lambda step: 10 * half_cosine(step, 8)),
        (lambda optimizer: ExponentialLR(optimizer, 0.5), lambda step: 0.5**step),
        (lambda optimizer: StepLR(optimizer, 2, 0.1), lambda step: 0.1 ** (step // 2)),
        (warmed_up, lambda step: (0.5, 0.75, 1, 0.5, 0.25, 0.125)[step]),
    ],
    ids=["WarmupCosine", "CosineAnnealing", "Exponential", "Step", "Sequential"],
)
def test_a_schedule_goes_on_from_the_learning_rate_of_the_config(tmp_path, schedule, factor):
    _, rates = resumed(tmp_path, 6, schedule, lr=0.02)
    assert rates[:3] == pytest.approx([0.1 * factor(step) for step in range(3)])
    assert rates[3:] == pytest.approx([0.02 * factor(step) for step in range(3, 6)])


def test_a_schedule_that_began_at_nothing_reaches_the_learning_rate_of_the_config(tmp_path):
    _, rates = resumed(
        tmp_path, 5, lambda optimizer: WarmupCosineSchedule(optimizer, warmup_steps=5, t_total=9), lr=0.02
    )
    assert rates == pytest.approx([0, 0.02, 0.04, 0.012, 0.016])


def test_what_else_the_config_says_of_the_optimizer_is_what_runs(tmp_path):
    made, rates = resumed(tmp_path, 4, lambda optimizer: ExponentialLR(optimizer, 0.5), weight_decay=0.3, momentum=0.5)
    (group,) = made.optimizer.param_groups
    assert (group["weight_decay"], group["momentum"]) == (0.3, 0.5)
    assert rates == [0.1, 0.05, 0.025, 0.0125], "the rate goes its way"


def test_what_the_config_says_of_the_schedule_is_what_runs(tmp_path):
    training(tmp_path, [0.5] * 3, schedule=lambda optimizer: ExponentialLR(optimizer, 0.5)).engine.run()
    again = training(tmp_path, [0.5] * 4, resume=True, schedule=lambda optimizer: ExponentialLR(optimizer, 0.1))
    again.engine.run()
    assert again.engine.state.history[3]["train/learning_rate"] == pytest.approx(0.1 * 0.1**3)


def test_a_changed_setting_is_the_one_to_compare_with_at_the_next_resume(tmp_path):
    resumed(tmp_path, 4, lr=0.02)
    for epochs, rate in ((5, 0.02), (6, 0.1)):
        network = torch.nn.Linear(3, 2)
        made = training(tmp_path, [0.5] * epochs, resume=True, network=network, optimizer=sgd(network, lr=rate))
        made.engine.run()
        assert made.engine.state.history[-1]["train/learning_rate"] == rate


def test_a_run_killed_before_its_first_checkpoint_begins_anew(tmp_path):
    first = training(tmp_path, [0.5])
    assert first.run.path.is_dir()
    first.run.release()
    again = training(tmp_path, [0.5, 0.25], resume=True)
    again.engine.run()
    assert [row["epoch"] for row in again.engine.state.history] == [1, 2]


@pytest.mark.parametrize("later", [-1, 1], ids=["in place", "copied, which gives other times"])
@pytest.mark.parametrize(("scores", "is_best"), [([0.2, 0.5], True), ([0.5, 0.2], False)])
def test_best_weights_that_a_kill_kept_from_their_file_are_written_on_resume(tmp_path, scores, is_best, later):
    first = training(tmp_path, scores)
    first.engine.run()
    state = torch.load(first.run.last_checkpoint, weights_only=True)["network"]
    # The kill came after the checkpoint of epoch 2: the model is still that of epoch 1, written before it.
    save_tensors(first.run.best_model, {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)})
    moment = first.run.last_checkpoint.stat().st_mtime_ns + later * 10**9
    os.utime(first.run.best_model, ns=(moment, moment))
    training(tmp_path, scores, resume=True).engine.run()
    kept = torch.load(first.run.best_model, weights_only=True)
    assert torch.equal(kept["weight"], state["weight"]) == is_best
    assert torch.equal(kept["weight"], torch.zeros(2, 3)) != is_best


def test_best_weights_that_are_in_their_file_are_left_there(tmp_path):
    first = training(tmp_path, [0.2, 0.5])
    first.engine.run()
    before = first.run.best_model.stat()
    os.utime(first.run.best_model, ns=(0, 0))
    training(tmp_path, [0.2, 0.5], resume=True).engine.run()
    after = first.run.best_model.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, 0)


def cosine(optimizer):
    return CosineAnnealingLR(optimizer, T_max=3)


def wider(folder):
    return training(folder, [0.5] * 2, resume=True, schedule=cosine, network=torch.nn.Linear(3, 4))


def another_optimizer(folder):
    network = torch.nn.Linear(3, 2)
    groups = [{"params": [network.weight]}, {"params": [network.bias], "lr": 0.2}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    return training(folder, [0.5] * 2, resume=True, schedule=cosine, network=network, optimizer=optimizer)


def another_schedule(folder):
    return training(folder, [0.5] * 2, resume=True, schedule=lambda optimizer: ExponentialLR(optimizer, 0.5))


def no_schedule(folder):
    return training(folder, [0.5] * 2, resume=True)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (wider, ["the checkpoint's network does not fit", "weight", "[2, 3]", "[4, 3]"]),
        (another_optimizer, ["the checkpoint's optimizer does not fit", "different number of parameter groups"]),
        (
            another_schedule,
            ["the checkpoint's scheduler does not fit", "it was CosineAnnealingLR and is ExponentialLR"],
        ),
        (no_schedule, ["the checkpoint's scheduler does not fit", "it was CosineAnnealingLR and is none"]),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_an_error_with_file_and_remedy(tmp_path, made, words):
    first = training(tmp_path, [0.5], schedule=cosine)
    first.engine.run()
    before = first.run.last_checkpoint.read_bytes()
    with pytest.raises(InputError) as caught:
        made(tmp_path).engine.run()
    assert caught.value.file == str(first.run.last_checkpoint)
    assert caught.value.remedy == "resume with the config that the run was started with"
    for word in words:
        assert word in caught.value.reason
    assert first.run.last_checkpoint.read_bytes() == before


def test_a_row_of_the_history_is_put_into_words_once_however_many_epochs_follow(tmp_path, monkeypatch):
    written = []
    counting = SimpleNamespace(dumps=lambda row: written.append(row) or json.dumps(row), loads=json.loads)
    monkeypatch.setattr("pipeline.handlers.checkpoints.json", counting)
    training(tmp_path, [0.5] * 3).engine.run()
    assert [row["epoch"] for row in written] == [1, 2, 3]
    written.clear()
    training(tmp_path, [0.5] * 5, resume=True).engine.run()
    assert [row["epoch"] for row in written] == [1, 2, 3, 4, 5]


def test_the_rows_of_a_checkpoint_that_an_earlier_version_saved(tmp_path):
    made = training(tmp_path, [0.2, N_A])
    made.engine.run()
    state = torch.load(made.run.last_checkpoint, weights_only=True)
    rows = rows_of(state["trainer"]["history"])
    assert rows[0] == made.engine.state.history[0]
    assert math.isnan(rows[1]["val/mean_dice"])
    save_tensors(made.run.last_checkpoint, {**state, "trainer": {"epoch": 2, "history": rows}})
    again = training(tmp_path, [0.2, 0.5, 0.5], resume=True)
    again.engine.run()
    assert again.engine.state.history[0] == rows[0]
    assert [row["epoch"] for row in again.engine.state.history] == [1, 2, 3]


def test_equal_tensors_make_equal_files(tmp_path):
    for name in ("a", "b"):
        save_tensors(tmp_path / name / "model.pt", {"weight": torch.ones(2, 3)})
    assert (tmp_path / "a" / "model.pt").read_bytes() == (tmp_path / "b" / "model.pt").read_bytes()


def test_a_better_model_leaves_no_earlier_one_in_another_format(tmp_path):
    made = training(tmp_path, [0.5, 0.4, 0.6])
    other, kept = made.run.best_model.with_suffix(".safetensors"), []
    made.engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: kept.append(other.exists()))
    made.engine.add_event_handler(Events.EPOCH_COMPLETED(once=1), lambda: other.touch())
    made.engine.run()
    assert kept == [False, True, False]


def test_only_the_first_rank_writes(tmp_path):
    made = training(tmp_path, [0.5])
    made.engine.state.rank = 1
    made.engine.run()
    assert not made.run.best_model.exists()
    assert not made.run.last_checkpoint.exists()


def test_the_best_as_the_tracking_store_names_it():
    evaluator = scripted_evaluator([0.25, 0.75, 0.5])
    assert best_of(evaluator) == {}
    for epoch in (1, 2, 3):
        evaluator.run(epoch)
    assert best_of(evaluator) == {"best/mean_dice": 0.75, "best/epoch": 2.0}


def test_there_is_no_best_where_all_is_n_a():
    evaluator = scripted_evaluator([N_A])
    evaluator.run(1)
    assert best_of(evaluator) == {}
