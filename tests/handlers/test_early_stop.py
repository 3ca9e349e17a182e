"""Training ends `patience` epochs after its best one, and no sooner."""

import pytest
from engines import scripted_evaluator, trainer
from ignite.engine import Events

from pipeline.handlers.early_stop import EarlyStop

N_A = float("nan")


def last_epoch(scores, patience, interval=1, epochs=None):
    evaluator = scripted_evaluator(scores)
    handlers = [EarlyStop(evaluator, patience)]
    engine = trainer(handlers, epochs=epochs or len(scores), evaluator=evaluator, interval=interval)
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
    engine = trainer([EarlyStop(evaluator, 4)], epochs=20, evaluator=evaluator)

    def as_restored(engine):
        engine.state.epoch = 9
        evaluator.state.best_metric, evaluator.state.best_metric_epoch = 0.9, 7

    engine.add_event_handler(Events.STARTED, as_restored)
    engine.run()
    assert engine.state.epoch == 11


def test_a_stop_completes_the_run():
    evaluator, ended = scripted_evaluator([0.5, 0.4, 0.3]), []
    engine = trainer([EarlyStop(evaluator, 1)], epochs=3, evaluator=evaluator)
    engine.add_event_handler(Events.COMPLETED, lambda: ended.append(engine.state.epoch))
    engine.run()
    assert ended == [2], "what stands at the end of training must happen, too"
