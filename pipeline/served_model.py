"""A bundle as an MLflow model: MLflow copies this file into the model, and runs it when the model is loaded."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from monai.bundle import ConfigWorkflow
from monai.data import MetaTensor
from monai.transforms import Compose
from monai.utils import MetaKeys, SpaceKeys

from pipeline import settings
from pipeline.batch.inputs import Input, find_inputs
from pipeline.batch.memory import check_room
from pipeline.errors import InputError, find_input_error
from pipeline.execution import prepare
from pipeline.handlers.load_weights import load_weights, weights_file
from pipeline.label_slabs import predict_labels, split_voxelwise, steps_of
from pipeline.predict import record
from pipeline.transforms.load_image import StrictLoadImaged
from pipeline.transforms.to_grid import ToGridd
from pipeline.trust import check_config


class ServedModel(PythonModel):
    """Label maps for arrays or files, made by the bundle's own preprocessing, inferer and postprocessing."""

    def load_context(self, context: PythonModelContext) -> None:
        """Build what the model's `inference.json` describes, and load its weights, of which only tensors are read."""
        folder = Path(context.artifacts["bundle"])
        parser = _parser(folder)
        parse = parser.get_parsed_content
        self.spatial_dims, self.device = parse("spatial_dims"), torch.device(parse("device"))
        weights = weights_file(parse("checkpoint"))
        trained = load_weights(weights, parse("network_def")).to(self.device).eval()
        wishes = {key: parse(key) for key in ("precision", "backend") if key in parser.get()}
        self.network = prepare(trained, weights, self.device, settings=settings.of(parser), **wishes)
        self.channels = getattr(self.network, "in_channels", parse("in_channels"))
        self.preprocessing, self.inferer, self.writer = parse("preprocessing"), parse("inferer"), parse("label_writer")
        self.by_slab, self.as_a_whole = split_voxelwise(parse("postprocessing"))

    # MLflow checks inputs by this hint, and takes an array's for a wish to let everything through.
    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> Any:
        """Return the labels of arrays or files.

        Args:
            context: not used.
            model_input: an image (*spatial) or (C, *spatial), or several of one size (N, C, *spatial), on the grid that
                the network knows and in the intensities of the files that it was trained on; or the path of an image,
                as `python -m pipeline predict` takes it, a list of paths, or a table with a column `path`.
            params: `output_dir`, where label maps of files are written to; none returns them.

        Returns:
            Of arrays, labels (*spatial) or (N, *spatial). Of one path, its labels or the file that was written; of
            several, a list of these.
        """
        output_dir = (params or {}).get("output_dir")
        paths = _paths(model_input)
        if paths is None:
            if output_dir:
                raise InputError("an array has no name to be written by", file="output_dir", remedy="give paths")
            return self._of_arrays(_numbers(model_input))
        results = self._of_files(paths, output_dir)
        return results[0] if isinstance(model_input, str | os.PathLike) else results

    def _of_arrays(self, values: np.ndarray) -> np.ndarray:
        without_space = values.ndim - self.spatial_dims
        if without_space not in (0, 1, 2) or 0 in values.shape:
            space = f"{self.spatial_dims} axes of space"
            remedy = f"give an image of {space}, of channels and {space}, or several: of number, channels and {space}"
            raise InputError(f"an array of shape {list(values.shape)} is no image for this network", remedy=remedy)
        if without_space == 2:
            return np.stack([self._labels(self._normalised(image)) for image in values])
        return self._labels(self._normalised(values if without_space else values[None]))

    def _normalised(self, image: np.ndarray) -> Mapping[Any, Any]:
        """Return what the preprocessing makes of an image (C, *spatial) that needs no loading and no resampling."""
        steps = [step for step in steps_of(self.preprocessing) if not isinstance(step, StrictLoadImaged)]
        affine = torch.from_numpy(_affine_of_grid(steps))
        meta = {
            MetaKeys.ORIGINAL_AFFINE: affine.clone(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(image.shape[1:]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
            MetaKeys.SPACE: SpaceKeys.RAS,
        }
        tensor = torch.from_numpy(image)
        return Compose(steps)({"id": "array", "image": MetaTensor(tensor, affine=affine, meta=meta)})

    def _of_files(self, paths: Sequence[str], output_dir: str | None) -> list[Any]:
        entries = [self._entry(path, output_dir) for path in paths]
        twice = [case for case, count in Counter(entry.case for entry in entries).items() if count > 1]
        if output_dir and twice:
            remedy = "ask for them one by one, each with its own output_dir"
            raise InputError("two inputs would be written under this name", case=twice[0], remedy=remedy)
        return [self._of_file(entry, output_dir) for entry in entries]

    def _entry(self, path: str, output_dir: str | None) -> Input:
        found = find_inputs(path, output_dir, self.channels, spatial_dims=self.spatial_dims)
        if len(found) != 1:
            raise InputError(f"holds {len(found)} images", file=path, remedy="name each of them by its own path")
        if found[0].problem is not None:
            raise found[0].problem
        return found[0]

    def _of_file(self, entry: Input, output_dir: str | None) -> Any:
        check_room(entry.files, self.spatial_dims, entry.case)
        try:
            item = self.preprocessing(record(entry))
        except RuntimeError as error:  # MONAI wraps what a transform raises
            raise find_input_error(error) or error from None
        if output_dir is None:
            return self._labels(item)
        writer = copy(self.writer)
        writer.output_dir = Path(output_dir)
        return str(writer(self._predicted(item))["outputs"][0])

    def _labels(self, item: Mapping[Any, Any]) -> np.ndarray:
        return torch.as_tensor(self._predicted(item)["pred"][0]).cpu().numpy()

    def _predicted(self, item: Mapping[Any, Any]) -> dict[Any, Any]:
        if len(item["image"]) != self.channels:
            reason = f"the image has {len(item['image'])} channels, and the network was trained on {self.channels}"
            raise InputError(reason, case=item.get("id"), remedy="convert the image, or choose another model")
        done = predict_labels(item, self.network, self.inferer, self.by_slab, self.device)
        return Compose(self.as_a_whole)(done)


def _parser(folder: Path) -> Any:
    """Return the parser of a bundle's inference config, checked as `python -m pipeline predict` does."""
    file = str(folder / "configs" / "inference.json")
    options: dict[str, Any] = {"workflow_type": "inference", "run_id": "inference", "logging_file": False}
    workflow = ConfigWorkflow(file, bundle_root=str(folder), **options)
    check_config(workflow.parser, file)
    try:
        workflow.initialize()
    except RuntimeError as error:  # MONAI wraps what a `$` expression raises
        raise find_input_error(error) or error from None
    return workflow.parser


def _affine_of_grid(steps: Iterable[Any]) -> np.ndarray:
    """Return the affine (4, 4) of an image that lies on the network's grid, so that nothing is turned or resampled.

    Axes "LPS" of 1, 1 and 3 mm give diag(-1, -1, 3, 1). Without a grid, as in 2D, the identity.
    """
    affine = np.eye(4)
    for grid in (step for step in steps if isinstance(step, ToGridd)):
        affine = np.diag([0.0, 0.0, 0.0, 1.0])
        for axis, (world, sign) in enumerate(grid.target):
            affine[int(world), axis] = sign * (grid.spacing[axis] or 1.0)
    return affine


def _paths(given: Any) -> list[str] | None:
    """Return the paths that an input consists of, None where it is an array."""
    if isinstance(given, pd.DataFrame):
        if "path" not in given:
            raise InputError("the table has no column 'path'", remedy="name the images in a column 'path'")
        return [str(path) for path in given["path"]]
    if isinstance(given, str | os.PathLike):
        return [os.fspath(given)]
    if isinstance(given, np.ndarray) and given.dtype.kind == "U":
        return [str(path) for path in given.ravel()]
    if isinstance(given, list | tuple) and given and all(isinstance(path, str | os.PathLike) for path in given):
        return [os.fspath(path) for path in given]
    return None


def _numbers(given: Any) -> np.ndarray:
    """Return an input as float32, or say why it is none."""
    try:
        with np.errstate(over="ignore"):
            values = np.asarray(given).astype(np.float32)
    except (TypeError, ValueError) as error:
        remedy = "give numbers, as many in each row, or paths"
        raise InputError("the input is neither an array nor paths", remedy=remedy) from error
    if not np.isfinite(values).all():
        raise InputError("the array has values that are not finite, or beyond float32", remedy="replace them")
    return values


set_model(ServedModel())
