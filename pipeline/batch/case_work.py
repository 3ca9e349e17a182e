"""What is done of one case: read, predicted, written and recorded, by steps that may run in threads of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.transforms import Compose
from torch import nn

from pipeline.batch.clock import forwards, stage
from pipeline.batch.completion import Completion
from pipeline.batch.failures import log_failure
from pipeline.batch.inputs import Input
from pipeline.batch.memory import Need, check_room, free_bytes, least_bytes, wants_room
from pipeline.batch.stages import Outcome, run_stages
from pipeline.batch.summary import measure
from pipeline.errors import InputError, visible
from pipeline.label_slabs import predict_labels, split_voxelwise, steps_of
from pipeline.transforms.to_grid import ToGridd

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def new_row(entry: Input, status: str) -> Row:
    """Return a case's row of the summary, of which nothing else is known yet."""
    return {"case": entry.case, "status": status, "reason": ""}


def record(entry: Input) -> dict[str, Any]:
    """Return what the preprocessing takes of a case."""
    return {"id": entry.case, "image": [str(file) for file in entry.files]}


@dataclass
class CaseWork:
    """The way of a case through a loaded network; nothing of it knows of other cases.

    Args:
        network: as it is run, on `device`.
        completion: the records of the output folder.
        preprocessing: from a record `{"id", "image"}` to an image tensor (C, *spatial).
        inferer: from an image batch and a network to logits.
        postprocessing: from logits, `pred`, to label maps on disk; its writers name their files in `outputs`.
        spatial_dims: 2 or 3.
        in_channels: that the network takes.
        class_names: of the labels, in the summary.
        device: where the network runs.
        probabilities: keep those of all classes for a writer.
        uncertainty: also make `uncertainty`.
        need: memory that a case takes beside its image.
        memory: bytes that a case may take, beyond which it is predicted block by block; None: as much as there is.
        zarr_level: the resolution of an OME-Zarr image that is predicted, 0 for the largest.
        zarr_orientation: where its axes x, y and z point in the patient, such as "LPS"; None: as the image says.
    """

    network: nn.Module
    completion: Completion
    preprocessing: Callable[[Any], Any]
    inferer: Callable[..., torch.Tensor]
    postprocessing: Compose
    spatial_dims: int
    in_channels: int
    class_names: Sequence[str]
    device: torch.device
    probabilities: bool
    uncertainty: bool
    need: Need
    memory: int | None = None
    zarr_level: int = 0
    zarr_orientation: str | None = None

    @property
    def execution(self) -> dict[str, str]:
        """In which number format the network computes, and by which program."""
        return {"precision": str(self.network.precision), "backend": str(self.network.backend)}

    def wants_room(self, entry: Input) -> bool:
        """Tell whether a case is so large that no other one should be in memory beside it."""
        return self.is_large(entry) or wants_room(entry.files, self.spatial_dims, self.need)

    def is_large(self, entry: Input) -> bool:
        """Tell whether a case is predicted block by block."""
        if entry.store is not None or entry.problem is not None:
            return entry.store is not None
        if len(entry.files) > 1 or not str(entry.files[0]).lower().endswith((".nii", ".nii.gz")):
            return False
        room = free_bytes() if self.memory is None else min(self.memory, free_bytes())
        return least_bytes(entry.files, self.spatial_dims, self.need) > room

    def state(self) -> str:
        """What a progress bar says of it: nothing, there is one of them."""
        return ""

    def finish(self, todo: Sequence[Input], tell: Callable[[Row, Mapping[str, float]], None]) -> Iterator[Row]:
        """Yield the rows of cases in order; while one is predicted, the next is read and the last one written.

        Args:
            todo: the cases.
            tell: called with the row and the seconds by stage of each, as soon as it is done.
        """

        def end(outcome: Outcome[Input]) -> Row:
            row = self.row(outcome)
            tell(row, outcome.clock.seconds)
            return row

        return run_stages(todo, self.read, self.predict, self.write, end, self.wants_room)

    def whole(self, entry: Input) -> tuple[Row, Mapping[str, float]]:
        """Do all of a case, one step after the other; return its row, and its seconds by stage."""
        outcome = Outcome(entry, result=entry).run(self.read).run(self.predict).run(self.write)
        return self.row(outcome), outcome.clock.seconds

    @stage("read")
    def read(self, entry: Input) -> dict[str, Any]:
        """Return a case with its image on the network's grid."""
        self.completion.begin(entry)
        if entry.problem is not None:
            raise entry.problem
        if self.is_large(entry):
            from pipeline.blockwise.large_case import LargeCase  # few batches need it

            return {"large": LargeCase(entry, self)}
        check_room(entry.files, self.spatial_dims, entry.case, self.need)
        item: Any = record(entry)
        for step in steps_of(self.preprocessing):
            with stage("resample" if isinstance(step, ToGridd) else "read"):
                item = step(item)
        if len(item["image"]) != self.in_channels:
            reason = f"the image has {len(item['image'])} channels, and the network was trained on {self.in_channels}"
            remedy = "convert the image, or train anew"
            raise InputError(reason, case=entry.case, file=entry.files[0], remedy=remedy)
        return item

    @stage("invert")
    def predict(self, item: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a case with what the network makes of it, on the grid of its file."""
        voxelwise, _ = split_voxelwise(self.postprocessing.flatten().transforms)
        with forwards(self.network, self.device):
            if "large" in item:
                return {"result": item["large"].run()}
            return predict_labels(
                item, self.network, self.inferer, voxelwise, self.device, self.probabilities, self.uncertainty
            )

    @stage("write")
    @torch.no_grad()
    def write(self, item: dict[Hashable, Any]) -> dict[str, Any]:
        """Write what there is to write; return what the summary says of it."""
        if "result" in item:
            return item["result"] | self.execution
        _, writing = split_voxelwise(self.postprocessing.flatten().transforms)
        item = Compose(writing)(item)
        return {**measure(item, self.class_names), **self.execution, "outputs": item.get("outputs", [])}

    def row(self, outcome: Outcome[Input]) -> Row:
        """Record a case that is done, log one that failed, and return its row of the summary."""
        entry, seconds, error = outcome.entry, outcome.clock.seconds, outcome.error
        taken = {"seconds": sum(seconds.values()), **{f"seconds_{name}": value for name, value in seconds.items()}}
        row = new_row(entry, "done") | {key: round(value, 3) for key, value in taken.items()}
        if error is None:
            try:
                row |= self._recorded(outcome, row)
            except (InputError, OSError) as failure:
                error = failure
        if error is not None:
            return row | {
                "status": "failed",
                "reason": log_failure(entry.case, error, self.completion.leftovers(entry)),
            }
        return row

    def _recorded(self, outcome: Outcome[Input], row: Row) -> Row:
        entry, outputs = outcome.entry, outcome.result["outputs"]
        folder = self.completion.output_dir
        row = row | outcome.result | {"outputs": [file.relative_to(folder).as_posix() for file in outputs]}
        if others := set(self.completion.leftovers(entry)) - set(outputs):
            row["reason"] = f"not of this batch, but of an earlier one: {', '.join(sorted(map(str, others)))}"
            logger.warning("case '%s': %s", visible(entry.case), row["reason"])
        self.completion.mark_complete(entry, outputs, row)
        return row
