"""Checkpoints that a kill cannot spoil, and a resume that forgets nothing."""

from __future__ import annotations

import logging
import math
import warnings
from typing import Any

import torch
from ignite.engine import Events
from monai.engines.workflow import Workflow
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pipeline.errors import InputError
from pipeline.handlers.history import validated
from pipeline.handlers.load_weights import misfit
from pipeline.run_folder import RunFolder
from pipeline.volumes.atomic import atomic_path

logger = logging.getLogger(__name__)

# How long a schedule is belongs to the config: a run resumed with more epochs follows the longer schedule.
HORIZON = ("T_max", "t_total", "total_iters", "warmup_steps")


class Checkpoints:
    """Save the best weights and the whole state of training, each by rename, and restore that state on resume.

    The best weights alone go to `models/model.pt`. `checkpoints/last.pt` holds network, optimizer, schedule, scaler,
    epoch, history and *the best metric so far*, so that no later, worse epoch takes the best one's place.

    Args:
        run: the folder to save in; its `resume` says whether to restore.
        network: the network itself, not a wrapper of it.
        optimizer: its optimizer.
        scheduler: the learning-rate schedule, if there is one.
        evaluator: the validation engine, which knows the best metric.
    """

    def __init__(
        self,
        run: RunFolder,
        network: nn.Module,
        optimizer: Optimizer,
        evaluator: Workflow,
        scheduler: LRScheduler | None = None,
    ) -> None:
        self.run, self.network, self.evaluator = run, network, evaluator
        self.parts = {"network": network, "optimizer": optimizer, "scheduler": scheduler}

    def attach(self, engine: Workflow) -> None:
        """Listen to a trainer. Stands after all that changes state at the end of an epoch."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _start(self, engine: Workflow) -> None:
        logger.info("run folder: %s", self.run.path)  # every rank's first look, which they take together
        if self.run.resume:
            self._restore(engine)

    def _save(self, engine: Workflow) -> None:
        best = self.evaluator.state
        is_best = validated(engine, self.evaluator) and best.best_metric_epoch == engine.state.epoch
        if engine.state.rank != 0:
            return
        # Before the first validation the latest weights are the best ones known.
        if is_best or best.best_metric_epoch < 0 or not self.run.best_model.exists():
            save_tensors(self.run.best_model, self.network.state_dict())
        state = {name: part.state_dict() for name, part in self._all_parts(engine).items() if part is not None}
        state["trainer"] = {"epoch": engine.state.epoch, "history": engine.state.history}
        state["best"] = {"metric": float(best.best_metric), "epoch": int(best.best_metric_epoch)}
        save_tensors(self.run.last_checkpoint, state)

    def _restore(self, engine: Workflow) -> None:
        file = self.run.last_checkpoint
        state = torch.load(file, map_location=engine.state.device, weights_only=True)
        for name, part in self._all_parts(engine).items():
            if part is None or name not in state:
                continue
            try:
                if name == "scheduler":
                    _restore_schedule(part, state[name])
                else:
                    part.load_state_dict(state[name])
            except (RuntimeError, ValueError, KeyError, AttributeError) as error:
                reason = f"the checkpoint's {name} does not fit this config: {misfit(error)}"
                raise InputError(
                    reason, file=file, remedy="resume with the config that the run was started with"
                ) from error
        engine.state.epoch = state["trainer"]["epoch"]
        engine.state.iteration = engine.state.epoch * engine.state.epoch_length
        engine.state.history = state["trainer"]["history"]
        self.evaluator.state.best_metric = state["best"]["metric"]
        self.evaluator.state.best_metric_epoch = state["best"]["epoch"]

    def _all_parts(self, engine: Workflow) -> dict[str, Any]:
        return {**self.parts, "scaler": engine.scaler}


def _restore_schedule(scheduler: LRScheduler, state: dict[str, Any]) -> None:
    """Restore a schedule but for its horizon; where that is another now, so is the rate of the next epoch."""
    scheduler.load_state_dict({key: value for key, value in state.items() if key not in HORIZON})
    if any(key in state and state[key] != getattr(scheduler, key) for key in HORIZON):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch would rather go on from the old schedule's last rate
            scheduler.step(scheduler.last_epoch)


def save_tensors(file: Any, content: Any) -> None:
    """Save to a temporary name, then rename: the earlier file stays whole until the new one is."""
    with atomic_path(file) as temporary:
        torch.save(content, temporary)


def best_of(evaluator: Workflow) -> dict[str, float]:
    """Return the best metric so far and its epoch, as the tracking store names them; nothing before the first one."""
    if evaluator.state.best_metric_epoch < 0 or math.isnan(evaluator.state.best_metric):
        return {}
    name = evaluator.state.key_metric_name
    return {f"best/{name}": float(evaluator.state.best_metric), "best/epoch": float(evaluator.state.best_metric_epoch)}
