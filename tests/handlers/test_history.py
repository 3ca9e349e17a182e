"""A row per epoch, with the losses and rates that the epoch had."""

import pytest
import torch
from engines import batch_of, scripted_evaluator, trainer
from monai.handlers import LrScheduleHandler

from pipeline.handlers.history import History, validated


def test_a_row_per_epoch_by_hand():
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    halving = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    evaluator = scripted_evaluator([0.25, 0.5, 0.125])
    schedule = LrScheduleHandler(halving, print_lr=False)  # steps before the history looks, as in the bundle
    handlers = [schedule, History(optimizer, evaluator)]
    engine = trainer(handlers, epochs=3, losses=(1, 2, 6), network=network, optimizer=optimizer, evaluator=evaluator)
    engine.run()
    times = [row.pop("time/epoch") for row in engine.state.history]
    assert engine.state.history == [
        {"epoch": 1, "train/loss": 3.0, "train/learning_rate": 0.1, "val/mean_dice": 0.25},
        {"epoch": 2, "train/loss": 3.0, "train/learning_rate": 0.05, "val/mean_dice": 0.5},
        {"epoch": 3, "train/loss": 3.0, "train/learning_rate": 0.025, "val/mean_dice": 0.125},
    ]
    assert all(0 < time < 60 for time in times)


def test_the_mean_loss_starts_anew_each_epoch():
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    engine = trainer([History(optimizer, scripted_evaluator([]))], epochs=2, network=network, optimizer=optimizer)
    losses = iter([1.0, 3.0, 10.0, 20.0])
    engine.data_loader = (batch_of(loss) for loss in losses)
    engine.state.epoch_length = 2
    engine.run()
    assert [row["train/loss"] for row in engine.state.history] == [2.0, 15.0]


@pytest.mark.parametrize(("interval", "epochs"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4]), (3, [3]), (9, [])])
def test_only_epochs_with_a_validation_have_scores(interval, epochs):
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    evaluator = scripted_evaluator([0.1, 0.2, 0.3, 0.4, 0.5])
    history = History(optimizer, evaluator)
    engine = trainer([history], epochs=5, network=network, optimizer=optimizer, evaluator=evaluator, interval=interval)
    engine.run()
    scores = {row["epoch"]: row["val/mean_dice"] for row in engine.state.history if "val/mean_dice" in row}
    assert scores == {epoch: epoch / 10 for epoch in epochs}


def test_validated_means_in_the_present_epoch():
    evaluator, engine = scripted_evaluator([0.5, 0.5]), trainer()
    assert not validated(engine, evaluator), "neither has begun"
    engine.state.epoch = 1
    assert not validated(engine, evaluator)
    evaluator.run(1)
    assert validated(engine, evaluator)
    engine.state.epoch = 2
    assert not validated(engine, evaluator)
    evaluator.run(2)
    assert validated(engine, evaluator)
