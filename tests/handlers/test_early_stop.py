"""Training ends `patience` epochs after its best one, and no sooner."""

import pytest
import torch
from engines import scripted_evaluator, trainer
from ignite.engine import Events

from pipeline.handlers.early_stop import EarlyStop
from pipeline.handlers.history import History

N_A = float("nan")


def with_history(handler, evaluator):
    parameter = torch.nn.Parameter(torch.zeros(1))
    return [History(torch.optim.SGD([parameter], lr=0.1), evaluator), handler]


def last_epoch(scores, patience, interval=1, epochs=None):
    evaluator = scripted_evaluator(scores)
    engine = trainer(
        with_history(EarlyStop(evaluator, patience), evaluator),
        epochs=epochs or len(scores),
        evaluator=evaluator,
        interval=interval,
    )
    engine.run()
    return engine.state.epoch


@pytest.mark.parametrize(
    ("scores", "patience", "expected"),
    [
        ([0.1, 0.5, 0.4, 0.3, 0.2, 0.1], 2, 4),
        ([0.1, 0.5, 0.4, 0.6, 0.2, 0.1, 0.1], 2, 6),  # epoch 4 came in time
        ([0.5, 0.4, 0.3], 1, 2),
        ([0.1, 0.2, 0.3, 0.4], 1, 4),  # better each time
        ([0.5, 0.5, 0.5, 0.5], 2, 3),  # as good is not better
        ([N_A, 0.1, N_A, N_A, 0.3], 2, 4),  # n/a is not better
        ([0.5, 0.4, 0.3, 0.2], None, 4),
        ([0.5, 0.4, 0.3, 0.2], 9, 4),
    ],
)
def test_the_epoch_in_which_training_ends(scores, patience, expected):
    assert last_epoch(scores, patience) == expected


def test_only_an_epoch_with_a_validation_ends_training():
    # Validated in epochs 2, 4, 6: the best is 2. Epoch 5 is 3 epochs later but did not look; epoch 6 did.
    assert last_epoch([0, 0.5, 0, 0.4, 0, 0.3, 0, 0.2], patience=3, interval=2) == 6


def test_nothing_ends_before_the_first_validation():
    assert last_epoch([], patience=1, interval=9, epochs=5) == 5


def test_a_resumed_run_counts_on_from_the_best_epoch_of_the_first():
    evaluator = scripted_evaluator([0.0] * 20)
    engine = trainer(with_history(EarlyStop(evaluator, 4), evaluator), epochs=20, evaluator=evaluator)

    def as_restored(engine):
        engine.state.epoch = 9
        evaluator.state.best_metric, evaluator.state.best_metric_epoch = 0.9, 7

    engine.add_event_handler(Events.STARTED, as_restored)
    engine.run()
    assert engine.state.epoch == 11


class Restore:
    """What Checkpoints does on resume, in its place before EarlyStop."""

    def __init__(self, evaluator, history, best):
        self.evaluator, self.history, self.best = evaluator, history, best

    def attach(self, engine):
        engine.add_event_handler(Events.STARTED, self.start)

    def start(self, engine):
        engine.state.history, engine.state.epoch = list(self.history), self.history[-1]["epoch"]
        self.evaluator.state.best_metric, self.evaluator.state.best_metric_epoch = 0.9, self.best


@pytest.mark.parametrize(
    ("validated", "patience", "expected"),
    [
        ([1, 2, 3, 4], 3, 4),  # killed after the epoch that ended training: not one more
        ([1, 2, 3, 4], 4, 5),
        ([1, 2, 3, 4], 9, 6),  # the config is more patient today
        ([1, 3], 3, 6),  # 4 is three epochs later, but did not look; without the kill training had gone on
    ],
)
def test_a_resumed_run_ends_where_it_had_ended_without_the_kill(validated, patience, expected):
    evaluator = scripted_evaluator([0.1] * 6)
    rows = [{"epoch": epoch, **({"val/mean_dice": 0.5} if epoch in validated else {})} for epoch in range(1, 5)]
    history, stop = with_history(EarlyStop(evaluator, patience), evaluator)
    interval = 1 if len(validated) == 4 else 6
    engine = trainer([history, Restore(evaluator, rows, 1), stop], epochs=6, evaluator=evaluator, interval=interval)
    engine.run()
    assert engine.state.epoch == expected


def test_a_stop_completes_the_run():
    evaluator, ended = scripted_evaluator([0.5, 0.4, 0.3]), []
    engine = trainer(with_history(EarlyStop(evaluator, 1), evaluator), epochs=3, evaluator=evaluator)
    engine.add_event_handler(Events.COMPLETED, lambda: ended.append(engine.state.epoch))
    engine.run()
    assert ended == [2], "what stands at the end of training must happen, too"
