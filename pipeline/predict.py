"""A folder in, a folder out: label maps for every image, and a summary of what became of each."""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from importlib.resources import files as files_of
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow
from monai.transforms import Compose
from torch import nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pipeline.batch.batch_run import log_batch
from pipeline.batch.clock import forwards, stage, table
from pipeline.batch.completion import Completion, digest_of
from pipeline.batch.failures import log_failure, raise_failures
from pipeline.batch.inputs import Input, find_inputs, shard
from pipeline.batch.memory import Need, check_room, wants_room
from pipeline.batch.stages import Outcome, run_stages
from pipeline.batch.summary import clashes, measure, write_summary
from pipeline.errors import InputError, find_input_error, visible
from pipeline.execution import prepare
from pipeline.handlers.load_weights import load_weights, weights_file
from pipeline.label_slabs import predict_labels, split_voxelwise, steps_of
from pipeline.provenance import digest
from pipeline.settings import WHERE_NOT_WHAT, read_config
from pipeline.stop_signals import stopped_by_signals
from pipeline.transforms.to_grid import ToGridd
from pipeline.trust import check_config
from pipeline.volumes.header import VolumeHeader

logger = logging.getLogger(__name__)

SUMMARY_EVERY = 30.0  # seconds between two writes of the summary of an unfinished batch


def records(
    source: str, output_dir: str | None = None, in_channels: int = 1, *, spatial_dims: int
) -> list[dict[str, Any]]:
    """Return a record `{"id", "image"}` for each case that `find_inputs` finds, for programs that run a dataset."""
    return [record(entry) for entry in find_inputs(source, output_dir, in_channels, spatial_dims=spatial_dims)]


def record(entry: Input) -> dict[str, Any]:
    """Return what the preprocessing takes of a case."""
    return {"id": entry.case, "image": [str(file) for file in entry.files]}


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
    ) -> None:
        if uncertainty and not hasattr(inferer, "predict_with_spread"):
            raise InputError(
                "a single prediction does not show how uncertain it is",
                file="save_uncertainty",
                remedy="add an overlay that averages several, such as infer_dihedral8.yaml or infer_mirrors.yaml",
            )
        self.input_dir, self.output_dir = input_dir, Path(output_dir)
        self.network, self.weights, self.device = network, str(weights_file(weights)), torch.device(device)
        self.preprocessing, self.inferer, self.postprocessing = preprocessing, inferer, postprocessing
        self.spatial_dims, self.class_names, self.in_channels = spatial_dims, class_names, in_channels
        self.probabilities, self.uncertainty, self.resume = probabilities, uncertainty, resume
        self.num_shards, self.shard_id, self.track = num_shards, shard_id, track
        self.precision, self.backend = precision, backend
        averaged = hasattr(inferer, "predict_with_spread")
        self.need = Need(_grid_of(preprocessing), len(class_names) * (probabilities + averaged + uncertainty))
        self.config = settings
        self.settings = {key: value for key, value in (settings or {}).items() if key not in WHERE_NOT_WHAT}

    def run(self) -> list[dict[str, Any]]:
        """Predict all; return a row per case, and raise when any failed, after the others are done."""
        entries = self._entries()
        load_weights(self.weights, self.network).to(self.device).eval()
        self.prepared = prepare(self.network, self.weights, self.device, self.precision, self.backend, self.config)
        model = {"weights": digest(self.weights), "settings": digest_of(self.settings), **self._execution()}
        completion = Completion(self.output_dir, model)
        rows = {entry.case: _row(entry, "waiting") for entry in entries}
        todo = self._incomplete(entries, completion, rows) if self.resume else entries
        try:
            self._write_summary(rows)  # into a folder that nothing can be written to, no case needs be predicted
        except OSError as error:
            reason = f"nothing can be written here ({error.strerror})"
            raise InputError(reason, file=self.output_dir, remedy="choose another output folder") from error
        try:
            with stopped_by_signals():
                for row in self._predicted(todo, completion, rows):
                    rows[row["case"]] = row
        except (KeyboardInterrupt, SystemExit):
            logger.warning("stopped before the end of the batch: run it again with --resume")
            raise
        finally:
            self._write_summary(rows)
        self._tell_time(len(todo))
        self._report(list(rows.values()))
        return list(rows.values())

    def _execution(self) -> dict[str, str]:
        """Return in which number format the network computes, and by which program."""
        return {"precision": str(self.prepared.precision), "backend": str(self.prepared.backend)}

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
                rows[entry.case] = _row(entry, "done") | completion.result(entry)
            else:
                logger.debug("case '%s' is to be done: %s", entry.case, why)
                todo.append(entry)
        logger.info("%d of %d cases were complete", len(entries) - len(todo), len(entries))
        return todo

    def _predicted(
        self, todo: Sequence[Input], completion: Completion, rows: dict[str, dict[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows of cases with a bar and a log line for each, and write the summary now and then."""
        numbers = itertools.count(1)

        def read(entry: Input) -> Any:
            completion.begin(entry)
            return self._read(entry)

        def record(outcome: Outcome[Input]) -> dict[str, Any]:
            return self._row(outcome, completion, self._time_left(next(numbers), len(todo)))

        self._begun = written = time.monotonic()
        self._seconds: Counter[str] = Counter()
        predicted = run_stages(todo, read, self._predict, self._finish, record, self._alone)
        # A log file has a line for each case instead of the bar.
        with logging_redirect_tqdm(), tqdm(total=len(todo), desc="predict", unit="case", disable=None) as bar:
            for row in predicted:
                bar.update()
                yield row
                if time.monotonic() - written > SUMMARY_EVERY:
                    self._write_summary(rows)
                    written = time.monotonic()

    def _alone(self, entry: Input) -> bool:
        return wants_room(entry.files, self.spatial_dims, self.need)

    @stage("read")
    def _read(self, entry: Input) -> dict[str, Any]:
        if entry.problem is not None:
            raise entry.problem
        check_room(entry.files, self.spatial_dims, entry.case, self.need)
        item: Any = record(entry)
        for step in steps_of(self.preprocessing):
            with stage("resample" if isinstance(step, ToGridd) else "read"):
                item = step(item)
        wanted = getattr(self.network, "in_channels", self.in_channels)
        if len(item["image"]) != wanted:
            reason = f"the image has {len(item['image'])} channels, and the network was trained on {wanted}"
            remedy = "convert the image, or train anew"
            raise InputError(reason, case=entry.case, file=entry.files[0], remedy=remedy)
        return item

    @stage("invert")
    def _predict(self, item: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        voxelwise, _ = split_voxelwise(self.postprocessing.flatten().transforms)
        with forwards(self.prepared, self.device):
            return predict_labels(
                item, self.prepared, self.inferer, voxelwise, self.device, self.probabilities, self.uncertainty
            )

    @stage("write")
    @torch.no_grad()
    def _finish(self, item: dict[Hashable, Any]) -> dict[str, Any]:
        """Write what there is to write; return what the summary says of it."""
        _, writing = split_voxelwise(self.postprocessing.flatten().transforms)
        item = Compose(writing)(item)
        return {**measure(item, self.class_names), **self._execution(), "outputs": item.get("outputs", [])}

    def _time_left(self, number: int, total: int) -> str:
        """Return how far the batch is, in words for a log."""
        left = (time.monotonic() - self._begun) / number * (total - number)
        return f" ({number} of {total}, {timedelta(seconds=round(left))} left)"

    def _row(self, outcome: Outcome[Input], completion: Completion, progress: str) -> dict[str, Any]:
        """Record a case that is done, and return its row of the summary."""
        entry, seconds, error = outcome.entry, outcome.clock.seconds, outcome.error
        self._seconds.update(seconds)
        taken = {"seconds": sum(seconds.values()), **{f"seconds_{name}": value for name, value in seconds.items()}}
        row = _row(entry, "done") | {key: round(value, 3) for key, value in taken.items()}
        if error is None:
            outputs = outcome.result["outputs"]
            row |= outcome.result | {"outputs": [file.relative_to(self.output_dir).as_posix() for file in outputs]}
            if others := set(completion.leftovers(entry)) - set(outputs):
                row["reason"] = f"not of this batch, but of an earlier one: {', '.join(sorted(map(str, others)))}"
                logger.warning("case '%s': %s", visible(entry.case), row["reason"])
            try:
                completion.mark_complete(entry, outputs, row)
            except (InputError, OSError) as failure:
                error = failure
        if error is not None:
            return row | {"status": "failed", "reason": log_failure(entry.case, error, completion.leftovers(entry))}
        logger.info("case '%s': done in %.1f s%s", visible(entry.case), row["seconds"], progress)
        return row

    @property
    def _summary(self) -> Path:
        """The summary's path without a suffix."""
        return self.output_dir / (f"summary-{self.shard_id}-of-{self.num_shards}" if self.num_shards > 1 else "summary")

    def _write_summary(self, rows: Mapping[str, dict[str, Any]]) -> None:
        write_summary(self._summary, rows.values())

    def _tell_time(self, cases: int) -> None:
        """Log where the time went, and keep it in MLflow if that is asked for."""
        elapsed = time.monotonic() - self._begun
        for line in table(self._seconds, cases, elapsed):
            logger.info(line)
        if self.track:
            params = {"model": self.weights, **self._execution(), "cases": cases}
            log_batch(params, self._seconds, elapsed, self._summary.with_name(f"{self._summary.name}.csv"))

    def _report(self, rows: Sequence[Mapping[str, Any]]) -> None:
        done = sum(row["status"] == "done" for row in rows)
        logger.info("%d of %d images predicted, in %s", done, len(rows), self.output_dir)
        raise_failures(rows, f"{self._summary}.csv")


def _grid_of(preprocessing: Callable[[Any], Any]) -> Callable[[VolumeHeader], int] | None:
    """Return how many voxels the preprocessing makes of a file, where it resamples."""
    grid = next((step for step in steps_of(preprocessing) if isinstance(step, ToGridd)), None)
    return None if grid is None else lambda header: grid.voxels_of(header.affine, header.shape)


def _row(entry: Input, status: str) -> dict[str, Any]:
    return {"case": entry.case, "status": status, "reason": ""}


def predict_with_bundle(
    bundle: str | Path,
    input_dir: str,
    output_dir: str,
    overlays: Sequence[str] = (),
    trust: bool = False,
    **overrides: Any,
) -> None:
    """Run the inference config of a bundle or run folder, as `python -m monai.bundle run inference` does.

    Args:
        bundle: the folder that holds `configs` and `models`, or ``models:/NAME@ALIAS`` of MLflow's registry.
        input_dir: what to predict.
        output_dir: where results go.
        overlays: config files on top of the bundle's own.
        trust: run whatever the config says; else only what `pipeline.trust` knows to be harmless.
        overrides: settings of the config.
    """
    folder = Path(bundle)
    if str(bundle).startswith("models:/"):
        from pipeline.registry import fetch  # MLflow takes seconds to import

        folder = fetch(str(bundle))
    file = folder / "configs" / "inference.json"
    try:
        file.open().close()
    except (FileNotFoundError, NotADirectoryError) as error:
        remedy = "name a run's folder, or a bundle such as bundles/unet"
        raise InputError("this folder is no bundle", file=file, remedy=remedy) from error
    except OSError as error:
        reason = f"the config cannot be opened ({error.strerror})"
        raise InputError(reason, file=file, remedy="correct the path or its permissions") from error
    for overlay in overlays:
        if not Path(overlay).is_file():
            raise InputError("there is no such overlay", file=overlay, remedy="give the path of a config file")
    # As text, a path with one of #, @, $ and % would be read as MONAI's own words.
    overrides |= {"bundle_root": str(folder), "input_dir": Path(input_dir), "output_dir": Path(output_dir)}
    files = [str(file), *map(str, overlays)]
    try:
        workflow = _workflow(files, trust, overrides)
        workflow.initialize()
        workflow.run()
    except KeyError as error:
        if not overlays:
            raise
        reason = f"an overlay changes what an inference config does not have ({error.args[0]})"
        remedy = "train with this overlay: the run's own inference.json follows it"
        raise InputError(reason, file=", ".join(map(str, overlays)), remedy=remedy) from error
    except RuntimeError as error:  # MONAI wraps what a `$` expression raises
        problem = find_input_error(error)
        if problem is None:
            raise
        raise problem from None


def _workflow(files: Sequence[str], trust: bool, overrides: dict[str, Any]) -> ConfigWorkflow:
    """Return a workflow of which nothing has run; without trust, nothing in it can do harm."""
    for file in files:
        read_config(file)
    if not trust:  # a logging.conf can write files too
        overrides.setdefault("logging_file", str(files_of("pipeline") / "logging.conf"))
    workflow = ConfigWorkflow(config_file=files, workflow_type="inference", run_id="inference", **overrides)
    if not trust:
        check_config(workflow.parser, files[0])
    return workflow
