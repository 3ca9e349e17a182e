"""Scores of regions that overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_dst_type

from pipeline.errors import InputError
from pipeline.handlers.case_scores import CaseScores, Measures


class RegionScores(CaseScores):
    """The key metric of an evaluator: mean over cases of the mean Dice over the case's regions.

    A region is scored as BraTS does it (Menze et al. 2015, https://doi.org/10.1109/TMI.2014.2377694): all of its labels
    are one mask, in the truth and in the label map that is written. One that the truth of a case lacks is n/a there.

    Args:
        class_names: names by label, background first.
        regions: labels by the region's name.
        surface_measures: as in `CaseScores`, of each region.
        probability_measures, instance_measures: regions have none.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        regions: Mapping[str, Sequence[int]],
        surface_measures: Measures | None = None,
        probability_measures: Measures | None = None,
        instance_measures: Measures | None = None,
    ) -> None:
        if refused := {**(probability_measures or {}), **(instance_measures or {})}:
            reason = f"regions overlap, so {', '.join(refused)} would have no foreground of its own"
            raise InputError(reason, file="scores", remedy="measure surfaces alone, or leave the regions out")
        super().__init__(class_names, surface_measures)
        self.regions = {name: list(labels) for name, labels in regions.items()}

    def update(self, output: Mapping[str, Any]) -> None:
        """Score one case: its `id`, `label` and `pred` (1, *spatial)."""
        rows = {name: self._row_of(labels, output) for name, labels in self.regions.items()}
        row: dict[str, Any] = {"case": output["id"]}
        for mean in [key for key in next(iter(rows.values())) if key.startswith("mean_")]:
            found = {f"{mean.removeprefix('mean_')}/{name}": of_region[mean] for name, of_region in rows.items()}
            known = [score for score in found.values() if not np.isnan(score)]
            row |= {mean: float(np.mean(known)) if known else float("nan"), **found}
        self.rows.append(row)

    def _row_of(self, labels: Sequence[int], output: Mapping[str, Any]) -> dict[str, Any]:
        """Score one region as the only class."""
        alone = CaseScores(["background", "region"], self.surface_measures)
        alone.update({"id": output["id"], **{key: _mask(output[key], labels) for key in ("label", "pred")}})
        return alone.rows[0]


def _mask(label: Any, labels: Sequence[int]) -> Any:
    plain = torch.as_tensor(label)
    return convert_to_dst_type(torch.isin(plain, plain.new_tensor(labels)), label, dtype=torch.uint8)[0]
