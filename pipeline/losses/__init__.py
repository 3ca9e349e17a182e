"""Losses with weights per pixel and per class."""

from pipeline.losses.weighted import WeightedDiceCELoss, targets_with_weights

__all__ = ["WeightedDiceCELoss", "targets_with_weights"]
