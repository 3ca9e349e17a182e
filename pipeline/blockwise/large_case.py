"""A case that is predicted block by block: an OME-Zarr store, or a NIfTI file for which memory is too small."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.batch.input_files import RECORDS
from pipeline.batch.inputs import Input
from pipeline.blockwise.block_plan import BlockPlan, Run
from pipeline.blockwise.block_predictor import BlockPredictor
from pipeline.errors import InputError, visible
from pipeline.label_slabs import split_voxelwise, steps_of
from pipeline.transforms.instances import Instancesd
from pipeline.transforms.save_image import AtomicSaveImaged, output_of
from pipeline.volumes.label_pyramid import build_pyramid
from pipeline.volumes.label_zarr import LabelImage, label_folder, scratch_labels, smallest_dtype
from pipeline.volumes.large_nifti import large_nifti, write_large_labels
from pipeline.volumes.ome_metadata import UNITLESS
from pipeline.volumes.ome_zarr import OmeImage, ZarrVolume, open_ome_zarr
from pipeline.volumes.region_reader import LabelStore, RegionReader

if TYPE_CHECKING:
    from pipeline.batch.case_work import CaseWork

logger = logging.getLogger(__name__)

LABELS, OBJECTS = "prediction", "instances"  # names of the label images in a store
SUFFIX = ".ome.zarr"
RUN, MANY = 4, 32  # blocks of a part at most, whose first windows are predicted twice; parts that are enough
MOST_OBJECTS = np.dtype(np.uint32)  # numbers of them: four thousand million


@dataclass(frozen=True)
class Part:
    """What a process predicts in one go: a run of blocks of one of a store's images."""

    image: int
    run: Run


class LargeCase:
    """All that is done of a case whose voxels are never in memory together.

    A store's labels go to ``<output>/<case>.ome.zarr/labels/``, on the grid of its image and with a pyramid; those of
    a NIfTI file to where they would go if it were small. Blocks that are recorded are not predicted again.

    Args:
        entry: the case; its input has been noted by `Completion.begin`.
        work: the network, and what is done of an image.
    """

    def __init__(self, entry: Input, work: CaseWork) -> None:
        self.entry, self.work = entry, work
        _, writing = split_voxelwise(work.postprocessing)
        self.writers, self.objects = _what_is_written(writing, entry)
        name = hashlib.sha256(os.fsencode(entry.case)).hexdigest()[:32]
        self.records = work.completion.output_dir / RECORDS / "blocks" / name

    def run(self) -> dict[str, Any]:
        """Predict all of it in this process; return what the summary says of it, and its `outputs`."""
        if self.entry.store is None:
            return self._run_nifti()
        self._withdraw()
        for predictor in self._predictors:
            predictor.run()
        return self.finish()

    def parts(self) -> list[Part]:
        """Begin a store: return what is to be predicted, by whatever processes."""
        self._withdraw()
        for predictor in self._predictors:
            predictor.tell()
            if self.work.spatial_dims == 3:  # planes are small enough to be measured where they are predicted
                predictor.prepare()
        plans = enumerate(predictor.plan for predictor in self._predictors)
        return [Part(image, run) for image, plan in plans for run in plan.runs(_blocks_of_a_part(plan))]

    def predict(self, part: Part) -> int:
        """Predict a part of a store; return how many of its blocks had not been done."""
        return self._predictors[part.image].predict(part.run)

    def finish(self) -> dict[str, Any]:
        """Number the objects of a store of which all parts are done, make the coarser levels, and describe it."""
        rows = [predictor.finish() for predictor in self._predictors]
        names = dict(enumerate(self.work.class_names))
        for image in self._label_images:
            build_pyramid(image, names if image.name == LABELS else None)
        return _together(rows) | {"outputs": [self._output]}

    @property
    def _output(self) -> Path:
        return output_of(self.work.completion.output_dir, self.entry.case, SUFFIX)

    @cached_property
    def _volumes(self) -> list[ZarrVolume]:
        level, orientation = self.work.zarr_level, self.work.zarr_orientation
        return open_ome_zarr(str(self.entry.store), level, orientation).images(self.work.spatial_dims)

    @cached_property
    def _label_images(self) -> list[LabelImage]:
        """The label images of each series, those of the classes before those of objects."""
        series = {volume.standing.series: volume.image for volume in self._volumes}
        return [
            self._label_image(name, image, dtype) for name, dtype in self._dtypes.items() for image in series.values()
        ]

    def _label_image(self, name: str, image: OmeImage, dtype: np.dtype) -> LabelImage:
        """Make a label image or open it; one of an earlier batch gives way, one of somebody else's does not."""
        folder = label_folder(self._output, image, name)
        mark = self.records / f"made-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]}"  # of each by itself
        if folder.exists() and not mark.exists():
            remedy = "choose another output folder, or remove it"
            raise InputError("there is a label map that no batch has recorded", file=folder, remedy=remedy)
        arguments = (self._output, name, image, dtype, self.work.spatial_dims)
        try:
            made = LabelImage(*arguments)
        except InputError:  # of another shape of blocks, or of other numbers
            made = LabelImage(*arguments, replace=True)
        self.records.mkdir(parents=True, exist_ok=True)
        mark.touch()
        return made

    @property
    def _dtypes(self) -> dict[str, np.dtype]:
        """What is written, by name: the classes, and the numbers of objects if they are asked for."""
        classes = {LABELS: smallest_dtype(len(self.work.class_names) - 1)}
        return classes | ({OBJECTS: MOST_OBJECTS} if self.objects else {})

    @cached_property
    def _predictors(self) -> list[BlockPredictor]:
        made = {(image.name, image.image.series): image for image in self._label_images}
        predictors = []
        for number, volume in enumerate(self._volumes):
            has_geometry = _unit(volume) not in UNITLESS
            stores = [made[name, volume.standing.series].labels(volume.standing) for name in self._dtypes]
            predictors.append(self._predictor(volume, stores, self.records / str(number), has_geometry))
        return predictors

    def _withdraw(self) -> None:
        for image in self._label_images:
            image.withdraw()

    def _run_nifti(self) -> dict[str, Any]:
        (file,) = self.entry.files
        logger.info(
            "case '%s' is predicted block by block: memory is too small for the whole", visible(self.entry.case)
        )
        with large_nifti(file, self.work.spatial_dims, self.records, self.entry.case) as reader:
            kinds = self._dtypes.items()
            stores = [scratch_labels(self.records / name, reader.shape, dtype) for name, dtype in kinds]
            row = self._predictor(reader, stores, self.records, has_geometry=True).run()
            outputs = [writer.output_file(self.entry.case, file) for writer in self.writers]
            for output, store in zip(outputs, stores, strict=True):
                write_large_labels(output, store, reader.header, case=self.entry.case)
        shutil.rmtree(self.records, ignore_errors=True)
        return row | {"outputs": outputs}

    def _predictor(
        self, reader: RegionReader, stores: Sequence[LabelStore], records: Path, has_geometry: bool
    ) -> BlockPredictor:
        work = self.work
        voxelwise, _ = split_voxelwise(work.postprocessing)
        return BlockPredictor(
            reader,
            stores[0],
            work.network,
            work.inferer,
            steps_of(work.preprocessing),
            [*voxelwise, *([self.objects] if self.objects else [])],
            class_names=work.class_names,
            records=records,
            identity=work.completion.identity(self.entry),
            budget=work.memory,
            device=work.device,
            instances=stores[1] if self.objects else None,
            has_geometry=has_geometry,
            case=self.entry.case,
        )


def _blocks_of_a_part(plan: BlockPlan) -> int | None:
    """Few enough for many workers, and more where there are parts enough; None: a pillar."""
    return None if plan.pillars >= MANY else max(1, min(RUN, plan.blocks // MANY))


def _what_is_written(
    writing: Sequence[Callable[[Any], Any]], entry: Input
) -> tuple[list[AtomicSaveImaged], Instancesd | None]:
    """Return the writers of label maps, that of the classes first, and what numbers objects; refuse all else."""
    writers, objects = [], None
    for step in [step for one in writing for step in steps_of(one)]:
        if isinstance(step, Instancesd):
            objects = step
        elif isinstance(step, AtomicSaveImaged) and step.kind == "labels":
            writers.append(step)
        else:
            what = f"'{step.keys[0]}'" if isinstance(step, AtomicSaveImaged) else type(step).__name__
            reason = f"it is predicted block by block, and {what} needs the whole of it in memory"
            remedy = "leave out what is asked for beside label maps and instances"
            raise InputError(reason, case=entry.case, file=entry.files[0], remedy=remedy)
    return writers, objects


def _unit(volume: ZarrVolume) -> object:
    multiscale = volume.image.multiscale
    return multiscale.axes[multiscale.spatial[-1]].get("unit")


def _together(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the row of all images of a store: counts and volumes are added, shape and spacing those of the first."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update({key: value for key, value in row.items() if isinstance(value, int | float)})
    first = dict(rows[0]) | dict(counts)
    return first if len(rows) == 1 else first | {"images": len(rows)}
