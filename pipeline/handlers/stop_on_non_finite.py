"""An end to training as soon as the loss is no number."""

from __future__ import annotations

import torch
from monai.engines.utils import IterationEvents
from monai.engines.workflow import Workflow

from pipeline.errors import InputError


class StopOnNonFinite:
    """Stop before a non-finite loss reaches the weights, and name the cases it came from."""

    def attach(self, engine: Workflow) -> None:
        """Listen to a trainer: between the loss and its gradient."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._check)

    def _check(self, engine: Workflow) -> None:
        loss = engine.state.output["loss"]
        if torch.isfinite(loss).all():
            return
        images = engine.state.output["image"]
        cases = engine.state.batch.get("id") or [f"number {n} of the batch" for n in range(1, len(images) + 1)]
        culprits = [case for case, image in zip(cases, images, strict=False) if not torch.isfinite(image).all()]
        where = f"at epoch {engine.state.epoch}, iteration {engine.state.iteration}"
        if culprits:
            reason = f"the loss is {loss.item()} {where}: these images are not finite"
            remedy = "mend or remove these images (NaN or infinite pixels)"
        else:
            reason = f"the loss is {loss.item()} {where}; the images are finite, so the network's output is not"
            remedy = "lower the learning rate and train anew"
        raise InputError(reason, case=", ".join(culprits or cases), remedy=remedy)
