"""The last state of the bar, as it stands when training is over."""

import pytest
import torch
from engines import scripted_evaluator, trainer
from ignite.engine import Events

from pipeline.handlers.history import History
from pipeline.handlers.progress_bar import ProgressBar

N_A = float("nan")


def train(scores, *, losses=(1.0, 3.0), interval=1, history=True, epochs=None, **options):
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    evaluator = scripted_evaluator(scores)
    handlers = [*([History(optimizer, evaluator)] if history else []), ProgressBar(**options)]
    epochs = epochs or len(scores)
    return trainer(handlers, epochs=epochs, losses=losses, network=network, evaluator=evaluator, interval=interval)


def shown(engine, capsys):
    engine.run()
    return capsys.readouterr().err.split("\r")[-1]


def test_a_training(capsys):
    line = shown(train([0.25, 0.75, 0.5]), capsys)
    assert line.startswith("train: 100%")
    assert "6/6" in line
    assert "epoch=3/3, loss=2.0000, val/mean_dice=0.5000, best=0.7500" in line


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        ([N_A, 0.25], "val/mean_dice=0.2500, best=0.2500"),
        ([0.25, N_A], "val/mean_dice=nan, best=0.2500"),
        ([N_A, N_A], "val/mean_dice=nan, best=nan"),
        ([0.0, -0.5], "val/mean_dice=-0.5000, best=0.0000"),
    ],
)
def test_n_a_is_shown_and_never_the_best(scores, text, capsys):
    assert text in shown(train(scores), capsys)


def test_before_the_first_validation_there_is_no_score(capsys):
    line = shown(train([], epochs=2, interval=9), capsys)
    assert "epoch=2/2, loss=2.0000" in line
    assert "best" not in line


def test_an_engine_without_a_history(capsys):
    line = shown(train([0.5], history=False, description="evaluate"), capsys)
    assert line.startswith("evaluate: 100%")
    assert "2/2" in line
    assert "loss" not in line


def test_a_resumed_training_begins_where_it_stopped(capsys):
    engine = trainer(epochs=4, losses=(1.0, 1.0))

    @engine.on(Events.STARTED)
    def as_restored():
        engine.state.epoch, engine.state.iteration = 3, 6

    ProgressBar().attach(engine)
    line = shown(engine, capsys)
    assert line.startswith("train: 100%")
    assert "8/8" in line


def test_other_ranks_are_silent(capsys):
    engine = train([0.5])
    engine.state.rank = 1
    engine.run()
    assert capsys.readouterr().err == ""
