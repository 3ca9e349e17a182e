"""Dice plus cross-entropy weighted per pixel and per class, and the batch preparation that carries the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.losses import DiceLoss
from torch.nn import functional

from pipeline.errors import InputError

DIMENSIONS: dict[Any, int] = {torch.channels_last: 4, torch.channels_last_3d: 5}


class WeightedDiceCELoss(torch.nn.Module):
    """Return `lambda_dice * Dice + lambda_ce * mean(w CE)` (Ronneberger 2015, equation 1, is lambda_dice = 0).

    Without weights it equals `monai.losses.DiceCELoss(to_onehot_y=True, softmax=True)`. Logits of one channel are
    read as a foreground score: sigmoid and binary cross-entropy. Dice takes no weights.

    Args:
        lambda_dice, lambda_ce: factors of the two terms; at 0 a term is not computed.
        class_weight: factor of the cross-entropy per class, background first; the mean is then divided by the mean
            factor of the batch, as `torch.nn.CrossEntropyLoss` does.
        include_background, squared_pred, smooth_nr, smooth_dr, batch: see `monai.losses.DiceLoss`.
        regions: read every channel as a mask of its own, which may overlap others: sigmoid and binary cross-entropy.
    """

    def __init__(
        self,
        lambda_dice: float = 1.0,
        lambda_ce: float = 1.0,
        class_weight: Sequence[float] | None = None,
        include_background: bool = True,
        squared_pred: bool = False,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        regions: bool = False,
    ) -> None:
        super().__init__()
        if min(lambda_dice, lambda_ce) < 0 or lambda_dice == lambda_ce == 0:
            raise InputError(
                f"lambda_dice is {lambda_dice} and lambda_ce {lambda_ce}",
                remedy="use positive numbers, or one of them 0",
            )
        if regions and class_weight is not None:
            raise InputError("class_weight is for classes that exclude each other", remedy="leave it out with regions")
        self.lambda_dice, self.lambda_ce, self.regions = lambda_dice, lambda_ce, regions
        shared: dict[str, Any] = {
            "squared_pred": squared_pred,
            "smooth_nr": smooth_nr,
            "smooth_dr": smooth_dr,
            "batch": batch,
        }
        self.softmax_dice = DiceLoss(include_background, to_onehot_y=True, softmax=True, **shared)
        self.sigmoid_dice = DiceLoss(sigmoid=True, **shared)
        self.class_weight: torch.Tensor | None
        weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float32)
        self.register_buffer("class_weight", weight, persistent=False)

    def forward(self, logits: torch.Tensor | Sequence[torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss.

        Args:
            logits: (B, C, *spatial), any float type, computed in float32; or a list of them for deep supervision, the
                full resolution first: their losses are weighted 1, 1/2, 1/4, ... divided by the sum, and the targets
                are down-sampled by nearest neighbour.
            targets: (B, 1, *spatial) class indices; or (B, 2, *spatial) with the pixel weights w as second channel; or,
                of regions, (B, C, *spatial) masks. Of larger ones the centre counts, which is what a network of valid
                convolutions predicts of its image.
        """
        targets = _plain(targets)
        if isinstance(logits, torch.Tensor):
            return self._one_scale(_plain(logits), _centre(targets, logits.shape[2:]))
        losses = [self._one_scale(_plain(scale), _shrink(targets, scale.shape[2:])) for scale in logits]
        factors = 0.5 ** torch.arange(len(losses), device=targets.device)
        return (torch.stack(losses) * factors).sum() / factors.sum()

    def _one_scale(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self._of_regions(logits, targets) if self.regions else self._of_classes(logits, targets)

    def _of_regions(self, logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        if masks.shape != logits.shape:
            raise InputError(
                f"targets of shape {tuple(masks.shape)} for logits of shape {tuple(logits.shape)}",
                remedy="give a mask for each region: pipeline.transforms.regions.RegionsFromLabelsd makes them",
            )
        logits, masks = logits.float(), masks.float()
        loss = logits.new_zeros(())
        if self.lambda_dice:
            loss = loss + self.lambda_dice * self.sigmoid_dice(logits, masks)
        if self.lambda_ce:
            loss = loss + self.lambda_ce * functional.binary_cross_entropy_with_logits(logits, masks)
        return loss

    def _of_classes(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if targets.shape[1] > 2 or targets.shape[2:] != logits.shape[2:]:
            raise InputError(
                f"targets of shape {tuple(targets.shape)} for logits of shape {tuple(logits.shape)}",
                remedy="give (B, 1, ...) class indices, or (B, 2, ...) with the weight map as second channel",
            )
        logits, labels = logits.float(), targets[:, :1]
        loss = logits.new_zeros(())
        if self.lambda_dice:
            dice = self.sigmoid_dice if logits.shape[1] == 1 else self.softmax_dice
            loss = loss + self.lambda_dice * dice(logits, labels)
        if self.lambda_ce:
            weight = targets[:, 1] if targets.shape[1] == 2 else None
            loss = loss + self.lambda_ce * self._cross_entropy(logits, labels[:, 0], weight)
        return loss

    def _cross_entropy(self, logits: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)  # softmax of (0, z) is sigmoid of z
        labels = labels.long()
        factor = None if self.class_weight is None else self.class_weight.to(logits.device)
        if factor is not None and len(factor) != logits.shape[1]:
            reason = f"class_weight has {len(factor)} factors for {logits.shape[1]} classes"
            raise InputError(reason, remedy="give one for each class, background first")
        if weight is None:
            return functional.cross_entropy(logits, labels, factor)
        entropy = functional.cross_entropy(logits, labels, factor, reduction="none") * weight
        return entropy.mean() if factor is None else entropy.sum() / factor[labels].sum()


def targets_with_weights(
    batchdata: Mapping[str, Any],
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return (image, targets) for a MONAI engine's `prepare_batch`, as plain tensors on `device`.

    Targets are `batchdata["label"]`; where the batch has "weight" (B, 1, *spatial), label and weight become the two
    channels of one float32 tensor, as `WeightedDiceCELoss` reads them. Without a label they are None.

    Args:
        batchdata: what the loader gives.
        device: where to move both.
        non_blocking: see `torch.Tensor.to`.
        kwargs: further arguments of `torch.Tensor.to` for the image; a `memory_format` of another number of
            dimensions is left out.
    """
    image = _plain(batchdata["image"])
    if image.ndim != DIMENSIONS.get(kwargs.get("memory_format"), image.ndim):
        del kwargs["memory_format"]
    image = image.to(device=device, non_blocking=non_blocking, **kwargs)
    if "label" not in batchdata:
        return image, None
    moved = [
        _plain(batchdata[key]).to(device=device, non_blocking=non_blocking)
        for key in ("label", "weight")
        if key in batchdata
    ]
    return image, moved[0] if len(moved) == 1 else torch.cat([part.float() for part in moved], dim=1)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Drop the meta data: every operation on a MetaTensor passes through Python."""
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


def _centre(targets: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    for axis, length in enumerate(size, 2):
        surplus = targets.shape[axis] - length  # 572 - 388 = 184: 92 at each end
        if surplus > 0 and surplus % 2 == 0:
            targets = targets.narrow(axis, surplus // 2, length)
    return targets


def _shrink(targets: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    if targets.shape[2:] == tuple(size):
        return targets
    return functional.interpolate(targets.float(), size=tuple(size), mode="nearest")
