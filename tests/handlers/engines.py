"""A trainer and evaluators small enough to run in milliseconds."""

import torch
from ignite.metrics import Metric
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler

from pipeline.handlers.case_scores import CaseScores, higher_is_better


class Script(Metric):
    """A key metric that is what the test says: `values[n - 1]` in epoch n."""

    def __init__(self, values):
        self.values = values
        super().__init__()

    def reset(self):
        pass

    def update(self, output):
        pass

    def compute(self):
        return self.values[0]

    def completed(self, engine, name):
        engine.state.metrics[name] = self.values[engine.state.epoch - 1]


def scripted_evaluator(values):
    """An evaluator whose mean Dice follows a script."""
    return SupervisedEvaluator(
        device="cpu",
        val_data_loader=[{"image": torch.zeros(1, 1), "label": torch.zeros(1, 1)}],
        network=torch.nn.Identity(),
        key_val_metric={"mean_dice": Script(values)},
        metric_cmp_fn=higher_is_better,
    )


def scoring_evaluator(cases, class_names, handlers=(), scores=None):
    """An evaluator of `cases`, (id, truth, prediction) of class indices: its images *are* the predictions."""
    batches = [
        {"id": [case], "image": torch.as_tensor(prediction)[None, None], "label": torch.as_tensor(truth)[None, None]}
        for case, truth, prediction in cases
    ]
    return SupervisedEvaluator(
        device="cpu",
        val_data_loader=batches,
        network=torch.nn.Identity(),
        key_val_metric={"mean_dice": scores or CaseScores(class_names)},
        metric_cmp_fn=higher_is_better,
        val_handlers=list(handlers),
    )


def label_loss(prediction, label):
    """A loss that is the mean label, so that a test can choose it, and that moves every weight."""
    return label.mean() + (prediction - prediction.detach()).sum()


def batch_of(loss):
    """One batch whose `label_loss` is the given number."""
    return {"id": ["a"], "image": torch.ones(1, 3), "label": torch.full((1, 2), float(loss))}


def trainer(handlers=(), *, epochs=1, losses=(1.0,), network=None, optimizer=None, evaluator=None, interval=1):
    """A trainer of a linear layer on a batch per loss, which validates before its other handlers look."""
    network = network or torch.nn.Linear(3, 2)
    validation = [ValidationHandler(interval, evaluator)] if evaluator else []
    return SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=[batch_of(loss) for loss in losses],
        network=network,
        optimizer=optimizer or torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=label_loss,
        train_handlers=[*validation, *handlers],
        decollate=False,
    )
