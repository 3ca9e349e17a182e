import json

import optuna
import pytest
from ignite.engine import Engine, Events

from pipeline.run_folder import RunFolder, read_facts
from pipeline.sweeps.pruning import Pruning
from pipeline.tracking import Tracking


class TaggedTracking(Tracking):
    """A run that only remembers its tags."""

    def __init__(self):
        self.tags = {}

    def tag(self, **tags):
        self.tags |= tags


class ThresholdPruner(optuna.pruners.BasePruner):
    """Prunes what is below a half."""

    def prune(self, study, trial):
        return trial.intermediate_values[trial.last_step] < 0.5


@pytest.fixture
def trial():
    return optuna.create_study(pruner=ThresholdPruner(), direction="maximize").ask()


def train(trial, tmp_path, scores, epochs=None, restored=()):
    """Train epochs that score as told, the first ones before a kill; return the engine, its run and its tags."""
    run, tracking = RunFolder(str(tmp_path), "run"), TaggedTracking()
    engine = Engine(lambda engine, batch: None)
    engine.state.history = []

    def restore(engine):
        engine.state.history = [{"epoch": number, "val/mean_dice": score} for number, score in enumerate(restored, 1)]
        engine.state.epoch = len(restored)

    def note(engine):
        score = scores[engine.state.epoch - 1]
        engine.state.history.append({"epoch": engine.state.epoch} | ({} if score is None else {"val/mean_dice": score}))

    engine.add_event_handler(Events.STARTED, restore)
    engine.add_event_handler(Events.EPOCH_COMPLETED, note)
    Pruning(trial, "val/mean_dice", run, tracking).attach(engine)
    engine.run([0], max_epochs=epochs or len(scores))
    facts = read_facts(run.path)
    run.release()
    return engine, facts, tracking.tags


def test_each_validation_is_told_and_epochs_without_one_are_not(trial, tmp_path):
    engine, facts, tags = train(trial, tmp_path, [0.6, None, 0.7])
    assert trial.study.trials[0].intermediate_values == {1: 0.6, 3: 0.7}
    assert engine.state.epoch == 3
    assert "pruned" not in facts
    assert tags == {}


def test_a_training_that_is_not_worth_more_ends_and_says_so(trial, tmp_path):
    engine, facts, tags = train(trial, tmp_path, [0.6, 0.4, 0.7])
    assert engine.state.epoch == 2
    assert trial.study.trials[0].intermediate_values == {1: 0.6, 2: 0.4}
    assert (facts["pruned"], tags) == (2, {"pruned": "2"})


def test_the_last_epoch_is_pruned_no_more(trial, tmp_path):
    _, facts, tags = train(trial, tmp_path, [0.6, 0.4])
    assert "pruned" not in facts
    assert tags == {}


def test_a_resumed_training_tells_what_it_came_to_before_the_kill_once(trial, tmp_path):
    train(trial, tmp_path, [None, None, 0.8], epochs=3, restored=[0.6, 0.7])
    assert trial.study.trials[0].intermediate_values == {1: 0.6, 2: 0.7, 3: 0.8}


def test_a_training_that_was_killed_while_it_was_pruned_is_pruned_when_it_is_resumed(trial, tmp_path):
    _, facts, _ = train(trial, tmp_path, [None, None, 0.8], epochs=3, restored=[0.6, 0.2])
    assert facts["pruned"] == 2
    assert json.loads((tmp_path / "run" / "run.json").read_text())["pruned"] == 2
