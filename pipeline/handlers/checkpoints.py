"""Checkpoints that a kill cannot spoil, and a resume that forgets nothing."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines.workflow import Workflow
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from pipeline.errors import InputError
from pipeline.handlers.history import validated
from pipeline.handlers.load_weights import SAFE, misfit, read_tensors
from pipeline.handlers.stage_times import counted_as
from pipeline.run_folder import RunFolder
from pipeline.volumes.atomic import atomic_path

logger = logging.getLogger(__name__)


class Checkpoints:
    """Save the best weights and the whole state of training, each by rename, and restore that state on resume.

    The best weights alone go to `models/model.pt`. `checkpoints/last.pt` holds network, optimizer, schedule, scaler,
    epoch, history and *the best metric so far*, so that no later, worse epoch takes the best one's place. It also holds
    what the config had made of optimizer and schedule before the first step: where today's config differs from that
    (learning rate, weight decay, length of the schedule), a resumed run follows today's.

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
        self.parts: dict[str, Any] = {"network": network, "optimizer": optimizer, "scheduler": scheduler}
        self.settings = deepcopy(
            {
                "kinds": {
                    "optimizer": type(optimizer).__name__,
                    "scheduler": type(scheduler).__name__ if scheduler else "none",
                },
                "optimizer": optimizer.state_dict()["param_groups"],
                "scheduler": scheduler.state_dict() if scheduler else {},
            }
        )

    def attach(self, engine: Workflow) -> None:
        """Listen to a trainer. Stands after all that changes state at the end of an epoch."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _start(self, engine: Workflow) -> None:
        logger.info("run folder: %s", self.run.path)  # every rank's first look, which they take together
        self._lines, self._rows = "", 0
        if not self.run.resume:
            return
        if self.run.last_checkpoint.exists():
            self._restore(engine)
        else:
            logger.info("the run was stopped before its first checkpoint: it begins anew")

    def _save(self, engine: Workflow) -> None:
        if engine.state.rank == 0:
            with counted_as("checkpoint", engine):
                self._save_both(engine)

    def _save_both(self, engine: Workflow) -> None:
        best = self.evaluator.state
        state = {name: part.state_dict() for name, part in self._all_parts(engine).items() if part is not None}
        state["settings"] = self.settings
        state["trainer"] = {"epoch": engine.state.epoch, "history": self._history(engine.state.history)}
        state["best"] = {"metric": float(best.best_metric), "epoch": int(best.best_metric_epoch)}
        save_tensors(self.run.last_checkpoint, state)
        # Before the first validation the latest weights are the best ones known.
        is_best = validated(engine, self.evaluator) and best.best_metric_epoch == engine.state.epoch
        if is_best or best.best_metric_epoch < 0 or not self.run.best_model.exists():
            self._save_model()

    def _history(self, rows: Sequence[dict[str, Any]]) -> str:
        """Return lines of JSON, one for each row: of all epochs, torch alone would take longer with each of them."""
        self._lines += "".join(f"{json.dumps(row)}\n" for row in rows[self._rows :])
        self._rows = len(rows)
        return self._lines

    def _save_model(self) -> None:
        self.run.best_model.with_suffix(SAFE).unlink(missing_ok=True)  # made by hand, of earlier weights
        save_tensors(self.run.best_model, self.network.state_dict())

    def _restore(self, engine: Workflow) -> None:
        state = read_tensors(self.run.last_checkpoint, engine.state.device, "a checkpoint")
        self._check_kinds(state)
        reschedule = _follow_config(state, self.settings)
        for name, part in self._all_parts(engine).items():
            if part is None or name not in state:
                continue
            try:
                part.load_state_dict(state[name])
            except (RuntimeError, ValueError, KeyError, AttributeError) as error:
                raise self._does_not_fit(name, misfit(error)) from error
        if reschedule:
            _follow_schedule(self.parts["scheduler"])
        engine.state.epoch = state["trainer"]["epoch"]
        engine.state.iteration = engine.state.epoch * engine.state.epoch_length
        engine.state.history = rows_of(state["trainer"]["history"])
        self.evaluator.state.best_metric = state["best"]["metric"]
        self.evaluator.state.best_metric_epoch = state["best"]["epoch"]
        self._complete_save(engine)

    def _complete_save(self, engine: Workflow) -> None:
        """Write the best weights where a kill came between the checkpoint, which has them too, and their own file."""
        is_best = self.evaluator.state.best_metric_epoch in (-1, engine.state.epoch)
        if engine.state.rank == 0 and is_best and not _holds(self.run.best_model, self.network.state_dict()):
            self._save_model()

    def _check_kinds(self, state: dict[str, Any]) -> None:
        for name, kind in self.settings["kinds"].items():
            saved = state["settings"]["kinds"][name] if "settings" in state else "of an earlier version of this package"
            if saved != kind:
                raise self._does_not_fit(name, f"it was {saved} and is {kind} now")

    def _does_not_fit(self, name: str, reason: str) -> InputError:
        return InputError(
            f"the checkpoint's {name} does not fit this config: {reason}",
            file=self.run.last_checkpoint,
            remedy="resume with the config that the run was started with",
        )

    def _all_parts(self, engine: Workflow) -> dict[str, Any]:
        return {**self.parts, "scaler": engine.scaler}


def rows_of(history: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a checkpoint's history, which earlier versions saved as they are."""
    return history if isinstance(history, list) else [json.loads(line) for line in history.splitlines()]


def _holds(file: Path, weights: dict[str, Any]) -> bool:
    """Return whether a file has these weights: by what is in it, for a copy of a run has other times."""
    try:
        saved = read_tensors(file)
    except InputError:
        return False
    return saved.keys() == weights.keys() and all(
        torch.equal(saved[name], value.cpu()) if isinstance(value, torch.Tensor) else saved[name] == value
        for name, value in weights.items()
    )


def _follow_config(state: dict[str, Any], now: dict[str, Any]) -> bool:
    """Put into a saved state what the config says otherwise than when the run was started.

    Return whether it says so of the schedule.
    """
    then, groups = state["settings"], state["optimizer"]["param_groups"]
    if len(then["optimizer"]) == len(now["optimizer"]):  # else the optimizer itself will say that it does not fit
        rows = zip(groups, then["optimizer"], now["optimizer"], strict=True)
        state["optimizer"]["param_groups"] = [_merged_group(*row) for row in rows]
    schedule = state.get("scheduler", {})
    state["scheduler"] = _merged(schedule, then["scheduler"], now["scheduler"])
    return state["scheduler"] != schedule


def _merged_group(saved: dict[str, Any], then: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    group = {**_merged(saved, then, now), "params": saved["params"]}
    if then["lr"] != now["lr"] and then["lr"]:  # the new rate, as far along its schedule as the old one was
        group["lr"] = now["lr"] * (saved["lr"] / then["lr"])
    return group


def _merged(saved: Any, then: Any, now: Any) -> Any:
    """Return what training has made of settings, but today's where they are not those that it began with.

    Worked example: `_merged({"lr": 0.1, "decay": 0}, {"lr": 0.2, "decay": 0}, {"lr": 0.2, "decay": 1})` gives
    `{"lr": 0.1, "decay": 1}`: the schedule had halved the rate, and the decay is another one today.
    """
    if type(saved) is type(then) is type(now) is dict:
        return {key: _merged(value, then.get(key, value), now.get(key, value)) for key, value in saved.items()}
    if type(saved) is type(then) is type(now) is list and len(saved) == len(then) == len(now):
        return [_merged(*values) for values in zip(saved, then, now, strict=True)]
    return saved if then == now else now


def _follow_schedule(scheduler: Any) -> None:
    """Compute the rate of the next epoch anew, where it is a function of the epoch alone."""
    if isinstance(scheduler, LambdaLR) or hasattr(scheduler, "_get_closed_form_lr"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch would rather go on from the old schedule's last rate
            scheduler.step(scheduler.last_epoch)


def save_tensors(file: Any, content: Any) -> None:
    """Save to a temporary name, then rename: the earlier file stays whole until the new one is.

    Equal tensors make equal files: torch is given no name, which it would write into the file.
    """
    with atomic_path(file) as temporary, open(temporary, "wb") as stream:
        torch.save(content, stream)


def best_of(evaluator: Workflow) -> dict[str, float]:
    """Return the best metric so far and its epoch, as the tracking store names them; nothing before the first one."""
    if evaluator.state.best_metric_epoch < 0 or math.isnan(evaluator.state.best_metric):
        return {}
    name = evaluator.state.key_metric_name
    return {f"best/{name}": float(evaluator.state.best_metric), "best/epoch": float(evaluator.state.best_metric_epoch)}
