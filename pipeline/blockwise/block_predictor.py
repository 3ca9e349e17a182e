"""The label map of a volume that is never in memory, made block by block, resumable, and by several processes."""

from __future__ import annotations

import logging
import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pipeline.batch.clock import stage
from pipeline.batch.summary import measured
from pipeline.blockwise.block_plan import BlockPlan, Needs, Run, plan_blocks
from pipeline.blockwise.block_records import BlockRecords
from pipeline.blockwise.file_grid import FileGrid
from pipeline.blockwise.intensities import fix, split_preprocessing
from pipeline.blockwise.network_image import NetworkImage
from pipeline.blockwise.object_join import number_objects
from pipeline.blockwise.plane_buffer import brick_height
from pipeline.blockwise.region_resampler import RegionResampler
from pipeline.blockwise.region_slabs import RegionSlabs, mirrors_of, tiling_of
from pipeline.errors import InputError
from pipeline.inferers.averaged import AveragedInferer
from pipeline.inferers.fitting import Shortage, attempt, does_not_fit
from pipeline.inferers.sliding_window import SlidingWindow
from pipeline.label_slabs import ignores_scale, split_voxelwise, steps_of, without_probabilities
from pipeline.transforms.instances import Instancesd
from pipeline.transforms.to_grid import FromGridd
from pipeline.volumes.region_reader import Box, LabelStore, RegionReader
from pipeline.volumes.voxels import count_labels

logger = logging.getLogger(__name__)
MEGA = 1e6


class BlockPredictor:
    """Predict a volume block by block, as `pipeline.label_slabs.predict_labels` predicts one in memory.

        predictor = BlockPredictor(reader, store, network, inferer, preprocessing, postprocessing, ...)
        row = predictor.run()

    or, with one predictor in each process, all of the first one's `plan` and `records`: `prepare()` of the first, then
    `predict(run)` for each of `plan.runs(...)`, anywhere and in any order, and at the end `finish()` of one. A block
    that is recorded, and whose labels are in the store, is not predicted again.

    Args:
        reader: the image.
        store: where its labels go, of the image's shape.
        network: from windows to logits, on `device`.
        inferer: see `RegionSlabs`.
        preprocessing: transforms of an image, of which the reading is left out: see `split_preprocessing`.
        postprocessing: transforms of its logits: `FromGridd` if there is a `ToGridd`, such that are voxelwise, and at
            last perhaps `Instancesd` of connected components; without writers.
        class_names: of the labels, in the summary.
        records: folder where it is recorded what is done.
        identity: what else decides on a label: digests of the input, the weights and the settings.
        chunk: voxels that `store` (and `instances`) keep together along each axis; None: those of its attribute
            `chunk`, or else the reader's.
        plan: where to cut; None: as the records say, or as `plan_blocks` finds it.
        budget: bytes that the arrays of one process may take, see `plan_blocks`.
        block: edges of a block, see `plan_blocks`.
        device: where the network runs.
        instances: where the numbers of objects go; needed for `Instancesd`.
        has_geometry: whether the reader's affine says where voxels lie.
        case: id for error messages.
    """

    def __init__(
        self,
        reader: RegionReader,
        store: LabelStore,
        network: Callable[..., torch.Tensor],
        inferer: Any,
        preprocessing: Compose | Sequence[Callable[[Any], Any]],
        postprocessing: Compose | Sequence[Callable[[Any], Any]],
        *,
        class_names: Sequence[str],
        records: str | PathLike[str],
        identity: Mapping[str, Any],
        chunk: Sequence[int] | None = None,
        plan: BlockPlan | None = None,
        budget: int | None = None,
        block: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
        instances: LabelStore | None = None,
        has_geometry: bool = True,
        case: str | None = None,
    ) -> None:
        self.reader, self.store, self.instances, self.case = reader, store, instances, case
        self.class_names, self.has_geometry = list(class_names), has_geometry
        _check_channels(network, reader, case)
        to_grid, self.intensities = split_preprocessing(_flat(preprocessing))
        self.grid = FileGrid.of(reader, to_grid)
        self.back, self.pointwise, self.objects = _split_postprocessing(_flat(postprocessing), instances)
        if to_grid is not None and self.back is None:
            reason = "the preprocessing has a ToGridd, and the postprocessing no FromGridd to bring labels back"
            raise InputError(reason, case=case, remedy="begin the postprocessing with a FromGridd")
        self.image = NetworkImage(reader, self.grid, case=case)
        self.slabs = RegionSlabs(inferer, network, device)
        self.means = not (self.grid.keeps_size and ignores_scale(self.pointwise))
        self.records = BlockRecords(records, identity)
        self.chunk = tuple(chunk or getattr(store, "chunk", None) or reader.chunk)
        self.plan = plan or self._plan(_needs(inferer, self.image, len(class_names)), budget, block)
        self.prepared = False

    def run(self) -> dict[str, Any]:
        """Predict what is not done, with a bar and a log of what it takes; return what `finish` does."""
        self.tell()
        self.prepare()
        voxels = math.prod(self.plan.size)
        with logging_redirect_tqdm(), tqdm(total=self.plan.blocks, desc="predict", unit="block", disable=None) as bar:
            begun, done = time.monotonic(), 0
            for run in self.plan.runs():
                for box, is_new in self._blocks(run):
                    done += is_new * _voxels(box)
                    bar.set_postfix_str(f"{done / MEGA / (time.monotonic() - begun):.2f} megavoxels/s", refresh=False)
                    bar.update()
        taken = time.monotonic() - begun
        logger.info("%.1f of %.1f megavoxels predicted in %.1f s", done / MEGA, voxels / MEGA, taken)
        return self.finish()

    def tell(self) -> None:
        """Log what the prediction will take."""
        what = f"{self.plan.blocks} blocks in {self.plan.pillars} pillars"
        if isinstance(self.slabs.tiling, SlidingWindow):
            window, starts = self.slabs.tiling.layout(self.image.size)
            ratios = [of / n for of, n in zip(self.grid.turned_size, self.image.size, strict=True)]
            begins = [[int(start * ratio) for start in axis] for axis, ratio in zip(starts, ratios, strict=True)]
            edges = [math.ceil(n * ratio) for n, ratio in zip(window, ratios, strict=True)]
            versions = 1 if self.slabs.mean is None else len(mirrors_of(self.slabs.mean, len(window)))
            what += f", {versions * self.plan.windows(begins, edges)} windows of {window} at most"
        size = " x ".join(map(str, self.reader.shape))
        logger.info("a volume of %s voxels: %s, about %.0f MiB of memory", size, what, self.plan.bytes / 2**20)

    @stage("read")
    def prepare(self) -> None:
        """Find the numbers that the preprocessing needs of the whole image, or load them if they have been found."""
        if self.prepared:
            return
        known = self.records.load("statistics")
        found = fix(self.image, self.intensities, known["steps"] if known else ())
        if known is None:
            self.records.keep("statistics", {"steps": found})
        self.prepared = True

    def predict(self, run: Run) -> int:
        """Predict the blocks of a run that are not done; return how many these were."""
        self.prepare()
        return sum(is_new for _, is_new in self._blocks(run))

    def finish(self) -> dict[str, Any]:
        """Number the objects, if asked for, and return the summary's row as `pipeline.batch.summary.measure` does."""
        counts = np.zeros(len(self.class_names), np.int64)
        for run in self.plan.runs(1):
            record = self.records.load(_name(self.plan.box(*run)))
            if record is None:
                reason = f"block {run.first} of pillar {run.pillar} has not been predicted"
                raise InputError(reason, case=self.case, remedy="predict all runs of the plan first")
            found = np.array(record["counts"], np.int64)
            counts = np.pad(counts, (0, max(len(found) - len(counts), 0)))
            counts[: len(found)] += found
        row = measured(self.reader.shape, self.reader.affine if self.has_geometry else None, counts, self.class_names)
        if self.objects is not None and self.instances is not None:
            shape, least = self.reader.shape, self.objects.min_size
            row["instances"] = number_objects(self.store, self.instances, shape, self.chunk, least)
        return row

    def is_done(self, box: Box) -> bool:
        """Tell whether a block is recorded, and its labels in the store are those that were."""
        record = self.records.load(_name(box))
        if record is None:
            return False
        labels = self.store.read(self.grid.in_file(box)).astype(record["dtype"], copy=False)
        return _checksum(labels) == record["checksum"]

    def _plan(self, needs: Needs, budget: int | None, block: Sequence[int] | None) -> BlockPlan:
        """The plan of an earlier call, if nothing else is asked for, so that its blocks count."""
        asked = {"budget": budget, "block": None if block is None else list(block), "chunk": list(self.chunk)}
        known = self.records.load("plan")
        if known is not None and known["asked"] == asked:
            return BlockPlan(tuple(map(tuple, known["borders"])), known["bytes"])
        plan = plan_blocks(self.grid, self.chunk, needs, budget, block)
        self.records.keep("plan", {"asked": asked, "borders": plan.borders, "bytes": plan.bytes})
        return plan

    def _blocks(self, run: Run) -> Iterator[tuple[Box, bool]]:
        """Yield the blocks of a run when they are done, and whether they were not before."""
        numbers = range(run.first, run.stop)
        done = {number: self.is_done(self.plan.box(run.pillar, number)) for number in numbers}
        first = run.first
        while first < run.stop:
            stop = next((number for number in range(first, run.stop) if done[number] != done[first]), run.stop)
            if not done[first]:
                yield from ((box, True) for box in self._predicted(run.pillar, first, stop))
            else:
                yield from ((self.plan.box(run.pillar, number), False) for number in range(first, stop))
            first = stop

    @torch.no_grad()
    def _predicted(self, pillar: int, first: int, stop: int) -> Iterator[Box]:
        """Predict consecutive blocks, and yield each when it is written and recorded."""
        labels = self._labels(self.plan.box(pillar, first, stop))
        held: list[tuple[int, torch.Tensor]] = []  # where planes begin, and they
        for number in range(first, stop):
            box = self.plan.box(pillar, number)
            block = torch.empty(0)
            filled = box[0].start
            while filled < box[0].stop:
                start, planes = held.pop() if held else self._next(labels)
                end = min(start + len(planes), box[0].stop)
                if not block.numel():
                    block = torch.empty([part.stop - part.start for part in box], dtype=planes.dtype)
                block[start - box[0].start : end - box[0].start] = planes[: end - start]
                if end < start + len(planes):
                    held.append((end, planes[end - start :].clone()))
                filled = end
            self._write(box, block)
            yield box

    def _next(self, labels: Iterator[tuple[int, torch.Tensor]]) -> tuple[int, torch.Tensor]:
        found = attempt(lambda: next(labels))
        if isinstance(found, Shortage):
            raise does_not_fit(found)
        return found

    def _labels(self, box: Box) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield labels (n, *across) of a box of turned voxels, and the plane that they begin with."""
        resampler = RegionResampler(self.grid, box, self.back or "linear")
        for slab in self.slabs(self.image, resampler.source, self.means):
            for start, _, logits in resampler.push(slab.logits[0]):
                record: dict[str, Any] = {"pred": logits}
                for transform in self.pointwise:
                    record = transform(record)
                yield start, torch.as_tensor(record["pred"])[0].cpu()

    @stage("write")
    def _write(self, box: Box, labels: torch.Tensor) -> None:
        """Write a block's labels, and then record it: a record stands for labels that are there."""
        turned = np.ascontiguousarray(self.grid.turn_back(labels.numpy()))
        self.store.write(self.grid.in_file(box), turned)
        counts = count_labels(turned, len(self.class_names)).tolist()
        facts = {"counts": counts, "dtype": turned.dtype.name, "checksum": _checksum(turned)}
        self.records.keep(_name(box), facts)


def _flat(transforms: Compose | Sequence[Callable[[Any], Any]]) -> list[Callable[[Any], Any]]:
    return steps_of(transforms) if isinstance(transforms, Compose) else list(transforms)


def _split_postprocessing(
    transforms: Sequence[Callable[[Any], Any]], instances: LabelStore | None
) -> tuple[str | None, list[Callable[[Any], Any]], Instancesd | None]:
    """Return the mode of `FromGridd`, if there is one, what is voxelwise, and what numbers the objects."""
    voxelwise, others = split_voxelwise(transforms)
    first = others[0] if others else None
    objects = first if isinstance(first, Instancesd) else None
    if others := [transform for transform in others if transform is not objects]:
        reason = f"{type(others[0]).__name__} in the postprocessing needs the whole label map, which is never in memory"
        raise InputError(reason, remedy="leave it out, or give it `voxelwise = True` if it treats each voxel by itself")
    if objects is not None and objects.seeds != "components":
        reason = f"seeds='{objects.seeds}' parts objects by a watershed of the whole volume"
        raise InputError(reason, file="instances#seeds", remedy="use 'components', whose joining is exact")
    if objects is not None and instances is None:
        raise InputError("objects are to be numbered, and there is no store for their numbers")
    grid = voxelwise[0] if voxelwise and isinstance(voxelwise[0], FromGridd) else None
    back = None if grid is None else dict(zip(grid.keys, grid.mode, strict=True)).get("pred", "linear")
    return back, [without_probabilities(transform) for transform in voxelwise if transform is not grid], objects


def _needs(inferer: Any, image: NetworkImage, classes: int) -> Needs:
    tiling, versions = tiling_of(inferer), 1
    if isinstance(inferer, AveragedInferer):
        versions = len(mirrors_of(inferer, len(image.size)))
    if isinstance(tiling, SlidingWindow):
        window, batch = tiling.layout(image.size)[0], tiling.sw_batch_size
    else:
        edges = tuple(tiling.tile_size) if isinstance(tiling.tile_size, Sequence) else (tiling.tile_size,)
        edges = edges * (len(image.size) // len(edges))
        window, batch = tuple(min(edge, n) for edge, n in zip(edges, image.size, strict=True)), tiling.batch_size
    return Needs(window, image.channels, max(classes, 2), versions, batch, brick_height(image))


def _check_channels(network: Any, reader: RegionReader, case: str | None) -> None:
    wanted = getattr(network, "in_channels", reader.channels)
    if reader.channels != wanted:
        reason = f"the image has {reader.channels} channels, and the network was trained on {wanted}"
        raise InputError(reason, case=case, remedy="convert the image, or train anew")


def _name(box: Box) -> str:
    """The name of a block's record, which does not depend on the plan."""
    return "block-" + "-".join(f"{part.start}_{part.stop}" for part in box)


def _voxels(box: Box) -> int:
    return math.prod(part.stop - part.start for part in box)


def _checksum(labels: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(labels).data)
