"""An end to training as soon as the loss is no number."""

from __future__ import annotations

import torch
from monai.engines.utils import IterationEvents
from monai.engines.workflow import Workflow

from pipeline import ranks
from pipeline.errors import InputError


class StopOnNonFinite:
    """Stop before a non-finite loss reaches the weights, and name the cases it came from.

    Of several ranks, all stop by the loss of any: its mean over them is what later handlers find in the output.
    """

    def attach(self, engine: Workflow) -> None:
        """Listen to a trainer: between the loss and its gradient. Stands before all that read the loss."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._check)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self._tell)

    def _tell(self, engine: Workflow) -> None:
        engine.state.output["loss"] = self.loss

    def _check(self, engine: Workflow) -> None:
        self.loss = loss = ranks.mean(engine.state.output["loss"])
        if torch.isfinite(loss).all():
            return
        images = engine.state.output["image"]
        own = engine.state.batch.get("id") or [f"number {n} of the batch" for n in range(1, len(images) + 1)]
        bad = [case for case, image in zip(own, images, strict=False) if not torch.isfinite(image).all()]
        found = ranks.gather((list(own), bad))
        cases, culprits = ([case for part in parts for case in part] for parts in zip(*found, strict=True))
        where = f"at epoch {engine.state.epoch}, iteration {engine.state.iteration}"
        if culprits:
            reason = f"the loss is {loss.item()} {where}: these images are not finite"
            remedy = "mend or remove these images (NaN or infinite pixels)"
        else:
            reason = f"the loss is {loss.item()} {where}; the images are finite, so the network's output is not"
            remedy = "lower the learning rate and train anew"
        raise InputError(reason, case=", ".join(culprits or cases), remedy=remedy)
