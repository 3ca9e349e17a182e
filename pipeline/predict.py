"""A folder of images in, a folder of label maps out."""

from __future__ import annotations

import csv
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow
from monai.data import MetaTensor
from torch import nn
from tqdm import tqdm

from pipeline.errors import InputError, find_input_error
from pipeline.handlers.load_weights import load_weights
from pipeline.volumes.atomic import atomic_write_text
from pipeline.volumes.reading import SUFFIXES

logger = logging.getLogger(__name__)


def list_inputs(input_dir: str | Path, output_dir: str | Path | None = None) -> list[dict[str, str]]:
    """Return a record `{"id", "image"}` for each image below a folder, in the order of their relative paths.

    Args:
        input_dir: searched with all its sub-folders.
        output_dir: left out of the search where it stands inside `input_dir`, as are hidden files and folders.
    """
    top = Path(input_dir)
    output = None if output_dir is None else Path(output_dir).resolve()
    skipped = output if output is not None and top.resolve() in output.parents else None
    files = [
        file
        for file in sorted(top.rglob("*"))
        if file.name.lower().endswith(SUFFIXES) and file.is_file()
        if not any(part.startswith(".") for part in file.relative_to(top).parts)
        if skipped is None or skipped not in file.resolve().parents
    ]
    return [{"id": file.relative_to(top).as_posix(), "image": str(file)} for file in files]


class FolderPredictor:
    """Predict every image of a folder; one that fails is reported at the end and stops no other.

    Args:
        input_dir: the folder of images, searched recursively.
        output_dir: where label maps go, under the inputs' relative paths and names, and `summary.csv` and `.json`.
        network: the network itself.
        weights: its state dict.
        preprocessing: from a record to an image tensor (C, *spatial).
        inferer: from an image batch and a network to logits.
        postprocessing: from logits, `pred`, to label maps on disk.
        device: where the network runs.
        uncertainty: also make `uncertainty` (1, *spatial), from 0 to 0.5: the standard deviation of a class's
            probability over the versions that an `AveragedInferer` predicts, of the class where it is largest.
    """

    def __init__(
        self,
        input_dir: str,
        output_dir: str,
        network: nn.Module,
        weights: str,
        preprocessing: Callable[[Any], Any],
        inferer: Callable[..., torch.Tensor],
        postprocessing: Callable[[Any], Any],
        device: str | torch.device = "cpu",
        uncertainty: bool = False,
    ) -> None:
        if uncertainty and not hasattr(inferer, "predict_with_spread"):
            raise InputError(
                "a single prediction does not show how uncertain it is",
                file="save_uncertainty",
                remedy="add an overlay that averages several, such as infer_dihedral8.yaml or infer_mirrors.yaml",
            )
        self.uncertainty = uncertainty
        self.input_dir, self.output_dir = Path(input_dir), Path(output_dir)
        self.network, self.weights, self.device = network, weights, torch.device(device)
        self.preprocessing, self.inferer, self.postprocessing = preprocessing, inferer, postprocessing

    def run(self) -> list[dict[str, Any]]:
        """Predict all; return a row per case, and raise when any failed, after the others are done."""
        records = self._records()
        load_weights(self.weights, self.network).to(self.device).eval()
        rows = []
        bar = tqdm(records, desc="predict", unit="image", mininterval=0.5 if sys.stderr.isatty() else 10)
        for record in bar:
            rows.append(self._predict_and_report(record))
        write_summary(self.output_dir, rows)
        failed = [row for row in rows if row["status"] != "done"]
        logger.info("%d of %d images predicted, in %s", len(rows) - len(failed), len(rows), self.output_dir)
        if failed:
            listed = "\n".join(f"  {row['reason']}" for row in failed)
            reason = f"{len(failed)} of {len(rows)} images were not predicted:\n{listed}\n"
            raise InputError(reason, file=self.output_dir / "summary.csv", remedy="mend these images and run again")
        return rows

    def _records(self) -> list[dict[str, str]]:
        if not self.input_dir.is_dir():
            raise InputError("the input folder does not exist", file=self.input_dir, remedy="check --input_dir")
        if self.input_dir.resolve() == self.output_dir.resolve():
            raise InputError(
                "input and output folder are the same", file=self.output_dir, remedy="give another --output_dir"
            )
        records = list_inputs(self.input_dir, self.output_dir)
        if not records:
            reason = f"the input folder holds no image ({' '.join(SUFFIXES)})"
            raise InputError(reason, file=self.input_dir, remedy="check --input_dir")
        return records

    def _predict_and_report(self, record: dict[str, str]) -> dict[str, Any]:
        start = time.perf_counter()
        try:
            self._predict(record)
            status, reason = "done", ""
        except Exception as error:
            status = "failed"
            problem = find_input_error(error)  # MONAI's Compose wraps it
            reason = f"{type(error).__name__}: {error}" if problem is None else str(problem)
            if problem is None or problem.case is None:
                reason = f"case '{record['id']}': {reason}"
            logger.error(reason)
        return {
            "case": record["id"],
            "status": status,
            "seconds": round(time.perf_counter() - start, 3),
            "reason": reason,
        }

    @torch.inference_mode()
    def _predict(self, record: dict[str, str]) -> None:
        item = self.preprocessing(record)
        image = item["image"]
        wanted = getattr(self.network, "in_channels", len(image))
        if len(image) != wanted:
            reason = f"the image has {len(image)} channels, and the network was trained on {wanted}"
            raise InputError(reason, case=record["id"], file=record["image"], remedy="convert the image, or train anew")
        predict = self.inferer.predict_with_spread if self.uncertainty else self.inferer  # type: ignore[attr-defined]
        found = predict(torch.as_tensor(image)[None].to(self.device), self.network)
        if self.uncertainty:
            found, spread = found
            item["uncertainty"] = _on_grid_of(image, spread[0].amax(dim=0, keepdim=True))
        item["pred"] = _on_grid_of(image, found[0])
        self.postprocessing(item)


def _on_grid_of(image: MetaTensor, values: torch.Tensor) -> MetaTensor:
    return MetaTensor(values, meta=image.meta, applied_operations=image.applied_operations)


def write_summary(output_dir: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write what became of each case as `summary.csv` and `summary.json`."""
    text = StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write_text(output_dir / "summary.csv", text.getvalue())
    atomic_write_text(output_dir / "summary.json", json.dumps(list(rows), indent=2) + "\n")


def predict_with_bundle(bundle: str | Path, input_dir: str, output_dir: str, **overrides: Any) -> None:
    """Run the inference config of a bundle or run folder, as `python -m monai.bundle run inference` does."""
    folder = Path(bundle)
    file = folder / "configs" / "inference.json"
    if not file.is_file():
        raise InputError(
            "this folder is no bundle", file=file, remedy="name a run's folder, or a bundle such as bundles/unet"
        )
    overrides |= {"bundle_root": str(folder), "input_dir": input_dir, "output_dir": output_dir}
    workflow = ConfigWorkflow(config_file=str(file), workflow_type="inference", run_id="inference", **overrides)
    try:
        workflow.initialize()
        workflow.run()
    except RuntimeError as error:  # MONAI wraps what a `$` expression raises
        raise find_input_error(error) or error from None
