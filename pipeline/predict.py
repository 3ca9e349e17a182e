"""A folder in, a folder out: label maps for every image, and a summary of what became of each."""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
from monai.transforms import Compose
from torch import nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pipeline.batch.batch_run import log_batch
from pipeline.batch.case_work import CaseWork, Row, new_row, record
from pipeline.batch.clock import table
from pipeline.batch.completion import Completion, digest_of
from pipeline.batch.failures import raise_failures
from pipeline.batch.inputs import Input, find_inputs, shard
from pipeline.batch.memory import Need
from pipeline.batch.summary import clashes, write_summary
from pipeline.errors import InputError, visible
from pipeline.execution import prepare
from pipeline.handlers.load_weights import load_weights, weights_file
from pipeline.label_slabs import steps_of
from pipeline.provenance import digest
from pipeline.settings import WHERE_NOT_WHAT
from pipeline.stop_signals import stopped_by_signals
from pipeline.transforms.to_grid import ToGridd
from pipeline.volumes.header import VolumeHeader

logger = logging.getLogger(__name__)

SUMMARY_EVERY = 30.0  # seconds between two writes of the summary of an unfinished batch


def records(
    source: str, output_dir: str | None = None, in_channels: int = 1, *, spatial_dims: int
) -> list[dict[str, Any]]:
    """Return a record `{"id", "image"}` for each case that `find_inputs` finds, for programs that run a dataset."""
    return [record(entry) for entry in find_inputs(source, output_dir, in_channels, spatial_dims=spatial_dims)]


class Workplace(Protocol):
    """What the cases of a batch are done by: `CaseWork` in this process, `pipeline.cluster` on others."""

    completion: Completion

    @property
    def execution(self) -> Mapping[str, str]:
        """In which number format the network computes, and by which program."""

    def state(self) -> str:
        """What a progress bar says of it."""

    def finish(self, todo: Sequence[Input], tell: Callable[[Row, Mapping[str, float]], None]) -> Iterator[Row]:
        """Yield the row of each case; `tell` it, and its seconds by stage, as soon as it is done."""


class FolderPredictor:
    """Predict every image of a folder; one that fails is reported at the end and stops no other.

    While the network predicts a case, the next one is read and the last one is written; a large volume has the memory
    for itself. Label maps are made slab by slab (`pipeline.label_slabs`).

    Args:
        input_dir: a folder, searched recursively, a pattern, a list or one file: see `find_inputs`.
        output_dir: where label maps go, under the inputs' relative paths, and `summary.csv` and `.json`.
        network: the network itself.
        weights: its state dict, of torch or safetensors.
        preprocessing: from a record `{"id", "image"}` to an image tensor (C, *spatial).
        inferer: from an image batch and a network to logits.
        postprocessing: from logits, `pred`, to label maps on disk; its writers name their files in `outputs`.
        spatial_dims: 2 or 3.
        class_names: of the labels, in the summary.
        in_channels: of the network.
        device: where the network runs.
        precision: number format of the network, and
        backend: program that computes it: see `pipeline.execution.prepare`. What they come to is in the summary.
        probabilities: keep those of all classes for a writer, which takes the memory for them.
        uncertainty: also make `uncertainty` (1, *spatial), from 0 to 0.5: the standard deviation of a class's
            probability over the versions that an `AveragedInferer` predicts, of the class where it is largest.
        resume: leave out what an earlier batch has completed with the same inputs, weights and settings.
        num_shards: parts that the batch is divided into.
        shard_id: the part to predict, from 0 to num_shards - 1.
        settings: the config, whose change makes a completed case incomplete.
        memory: GiB that a case may take: a NIfTI file that takes more is predicted block by block, as OME-Zarr images
            always are; None: as much as is free.
        zarr_level: the resolution of OME-Zarr images that is predicted, 0 for the largest.
        zarr_orientation: where their axes x, y and z point in the patient, such as "LPS"; None: as they say themselves.
        track: log the batch as an MLflow run, in the experiment "predictions" of the store of `MLFLOW_TRACKING_URI`.
    """

    def __init__(
        self,
        input_dir: str,
        output_dir: str,
        network: nn.Module,
        weights: str,
        preprocessing: Callable[[Any], Any],
        inferer: Callable[..., torch.Tensor],
        postprocessing: Compose,
        spatial_dims: int = 2,
        class_names: Sequence[str] = (),
        in_channels: int = 1,
        device: str | torch.device = "cpu",
        precision: str = "auto",
        backend: str = "auto",
        probabilities: bool = False,
        uncertainty: bool = False,
        resume: bool = False,
        num_shards: int = 1,
        shard_id: int = 0,
        settings: Mapping[str, Any] | None = None,
        track: bool = False,
        memory: float | None = None,
        zarr_level: int = 0,
        zarr_orientation: str | None = None,
    ) -> None:
        if uncertainty and not hasattr(inferer, "predict_with_spread"):
            raise InputError(
                "a single prediction does not show how uncertain it is",
                file="save_uncertainty",
                remedy="add an overlay that averages several, such as infer_dihedral8.yaml or infer_mirrors.yaml",
            )
        if memory is not None and not memory > 0:
            raise InputError(f"memory is {memory}", file="memory", remedy="give GiB above 0, or null for what is free")
        self.input_dir, self.output_dir = input_dir, Path(output_dir)
        self.network, self.weights, self.device = network, str(weights_file(weights)), torch.device(device)
        self.preprocessing, self.inferer, self.postprocessing = preprocessing, inferer, postprocessing
        self.spatial_dims, self.class_names, self.in_channels = spatial_dims, class_names, in_channels
        self.probabilities, self.uncertainty, self.resume = probabilities, uncertainty, resume
        self.num_shards, self.shard_id, self.track = num_shards, shard_id, track
        self.precision, self.backend = precision, backend
        self.memory = None if memory is None else round(memory * 2**30)
        self.zarr_level, self.zarr_orientation = zarr_level, zarr_orientation
        averaged = hasattr(inferer, "predict_with_spread")
        self.need = Need(_grid_of(preprocessing), len(class_names) * (probabilities + averaged + uncertainty))
        self.config = settings
        self.settings = {key: value for key, value in (settings or {}).items() if key not in WHERE_NOT_WHAT}

    def run(
        self, at: Callable[[Sequence[Input]], AbstractContextManager[Workplace]] | None = None
    ) -> list[dict[str, Any]]:
        """Predict all; return a row per case, and raise when any failed, after the others are done.

        Args:
            at: opens what the cases are done by, such as the workers of a cluster; None: this process.
        """
        entries = self._entries()
        with nullcontext(self.work()) if at is None else at(entries) as work:
            return self._run(entries, work)

    def _run(self, entries: Sequence[Input], work: Workplace) -> list[dict[str, Any]]:
        rows = {entry.case: new_row(entry, "waiting") for entry in entries}
        todo = self._incomplete(entries, work.completion, rows) if self.resume else entries
        try:
            self._write_summary(rows)  # into a folder that nothing can be written to, no case needs be predicted
        except OSError as error:
            reason = f"nothing can be written here ({error.strerror})"
            raise InputError(reason, file=self.output_dir, remedy="choose another output folder") from error
        try:
            with stopped_by_signals():
                for row in self._predicted(todo, work, rows):
                    rows[row["case"]] = row
        except (KeyboardInterrupt, SystemExit):
            logger.warning("stopped before the end of the batch: run it again with --resume")
            raise
        finally:
            self._write_summary(rows)
        self._tell_time(len(todo), work.execution)
        self._report(list(rows.values()))
        return list(rows.values())

    def work(self) -> CaseWork:
        """Load the weights; return what is done of each case."""
        load_weights(self.weights, self.network).to(self.device).eval()
        prepared = prepare(self.network, self.weights, self.device, self.precision, self.backend, self.config)
        execution = {"precision": str(prepared.precision), "backend": str(prepared.backend)}
        model = {"weights": digest(self.weights), "settings": digest_of(self.settings), **execution}
        return CaseWork(
            network=prepared,
            completion=Completion(self.output_dir, model),
            preprocessing=self.preprocessing,
            inferer=self.inferer,
            postprocessing=self.postprocessing,
            spatial_dims=self.spatial_dims,
            in_channels=getattr(self.network, "in_channels", self.in_channels),
            class_names=self.class_names,
            device=self.device,
            probabilities=self.probabilities,
            uncertainty=self.uncertainty,
            need=self.need,
            memory=self.memory,
            zarr_level=self.zarr_level,
            zarr_orientation=self.zarr_orientation,
        )

    def _entries(self) -> list[Input]:
        found = find_inputs(self.input_dir, self.output_dir, self.in_channels, spatial_dims=self.spatial_dims)
        postfixes = {step.postfix for step in steps_of(self.postprocessing) if hasattr(step, "postfix")}
        clashing = {str(error.case): error for error in clashes([entry.case for entry in found], sorted(postfixes))}
        problems = [entry.problem or clashing.get(entry.case) or self._misnamed(entry) for entry in found]
        checked = [replace(entry, problem=problem) for entry, problem in zip(found, problems, strict=True)]
        return shard(checked, self.num_shards, self.shard_id)

    def _misnamed(self, entry: Input) -> InputError | None:
        """Return why a case's results can have no name, which is better known before they are made."""
        file = entry.files[0]
        if entry.store is not None:
            return None
        try:
            for step in steps_of(self.postprocessing):
                if hasattr(step, "output_file"):
                    step.output_file(entry.case, file)
        except InputError as error:
            return InputError(error.reason, case=entry.case, file=error.file or file, remedy=error.remedy)
        except OSError:  # the reading will say it
            return None
        return None

    def _incomplete(
        self, entries: Sequence[Input], completion: Completion, rows: dict[str, dict[str, Any]]
    ) -> list[Input]:
        todo = []
        for entry in tqdm(entries, "looking at what is complete", unit="case", delay=2, disable=None):
            why = completion.why_incomplete(entry)
            if why is None:
                rows[entry.case] = new_row(entry, "done") | completion.result(entry)
            else:
                logger.debug("case '%s' is to be done: %s", entry.case, why)
                todo.append(entry)
        logger.info("%d of %d cases were complete", len(entries) - len(todo), len(entries))
        return todo

    def _predicted(
        self, todo: Sequence[Input], work: Workplace, rows: dict[str, dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows of cases with a bar and a log line for each, and write the summary now and then."""
        numbers = itertools.count(1)

        def tell(row: Row, seconds: Mapping[str, float]) -> None:
            self._seconds.update(seconds)
            progress = self._time_left(next(numbers), len(todo))
            if row["status"] == "done":
                logger.info("case '%s': done in %.1f s%s", visible(row["case"]), row["seconds"], progress)

        self._begun = written = time.monotonic()
        self._seconds: Counter[str] = Counter()
        # A log file has a line for each case instead of the bar.
        with logging_redirect_tqdm(), tqdm(total=len(todo), desc="predict", unit="case", disable=None) as bar:
            for row in work.finish(todo, tell):
                bar.set_postfix_str(work.state(), refresh=False)
                bar.update()
                yield row
                if time.monotonic() - written > SUMMARY_EVERY:
                    self._write_summary(rows)
                    written = time.monotonic()

    def _time_left(self, number: int, total: int) -> str:
        """Return how far the batch is, in words for a log."""
        left = (time.monotonic() - self._begun) / number * (total - number)
        return f" ({number} of {total}, {timedelta(seconds=round(left))} left)"

    @property
    def _summary(self) -> Path:
        """The summary's path without a suffix."""
        return self.output_dir / (f"summary-{self.shard_id}-of-{self.num_shards}" if self.num_shards > 1 else "summary")

    def _write_summary(self, rows: Mapping[str, dict[str, Any]]) -> None:
        write_summary(self._summary, rows.values())

    def _tell_time(self, cases: int, execution: Mapping[str, str]) -> None:
        """Log where the time went, and keep it in MLflow if that is asked for."""
        elapsed = time.monotonic() - self._begun
        for line in table(self._seconds, cases, elapsed):
            logger.info(line)
        if self.track:
            params = {"model": self.weights, **execution, "cases": cases}
            log_batch(params, self._seconds, elapsed, self._summary.with_name(f"{self._summary.name}.csv"))

    def _report(self, rows: Sequence[Mapping[str, Any]]) -> None:
        done = sum(row["status"] == "done" for row in rows)
        logger.info("%d of %d images predicted, in %s", done, len(rows), self.output_dir)
        raise_failures(rows, f"{self._summary}.csv")


def _grid_of(preprocessing: Callable[[Any], Any]) -> Callable[[VolumeHeader], int] | None:
    """Return how many voxels the preprocessing makes of a file, where it resamples."""
    grid = next((step for step in steps_of(preprocessing) if isinstance(step, ToGridd)), None)
    return None if grid is None else lambda header: grid.voxels_of(header.affine, header.shape)
