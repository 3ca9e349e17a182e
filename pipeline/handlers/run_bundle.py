"""A training run as a bundle: configs at the start; at the end scores, pictures, a card, and a proof that it runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.engines.evaluator import Evaluator
from monai.engines.workflow import Workflow
from torch import nn

from pipeline import bundle, figures, provenance, ranks
from pipeline.errors import InputError
from pipeline.handlers.evaluation_report import EvaluationReport, score_table
from pipeline.handlers.load_weights import load_weights
from pipeline.handlers.mlflow_run import origin
from pipeline.handlers.stage_times import counted_as
from pipeline.precision_record import record_precision
from pipeline.report import changed_settings, origin_facts
from pipeline.run_folder import RunFolder, read_facts
from pipeline.run_metadata import describe_run
from pipeline.tracking import Tracking
from pipeline.volumes.atomic import atomic_write_text

logger = logging.getLogger(__name__)


class RunBundle:
    """Leave `<output_dir>/<run>/` as a complete, flattened, verified bundle.

    At the end the best weights are loaded, the validation cases are evaluated with them once more, and the exported
    `inference.json` is built and must give the same output as the network that was trained.

    Args:
        run: the run's folder.
        config: the merged config.
        configs: the `configs` folder that the run was started from, with the files that go along.
        metadata: the bundle's metadata, which the run's own are made from.
        network: the network itself, not a wrapper of it.
        evaluator: the validation engine.
        report: writes the tables and pictures of the validation cases.
        tracking: the MLflow run that gets them as artifacts.
        data_list: the list of cases.
    """

    def __init__(
        self,
        run: RunFolder,
        config: Mapping[str, Any],
        configs: Path,
        metadata: Mapping[str, Any],
        network: nn.Module,
        evaluator: Evaluator,
        report: EvaluationReport,
        tracking: Tracking,
        data_list: str | Path | None = None,
    ) -> None:
        self.run, self.config, self.configs, self.metadata = run, config, configs, metadata
        self.network, self.evaluator, self.report, self.tracking = network, evaluator, report, tracking
        self.data_list = None if data_list is None else Path(data_list)

    def attach(self, engine: Workflow) -> None:
        """Listen to a trainer. Stands after Checkpoints and EarlyStop and before MLflowRun in the list."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.COMPLETED, self._complete)

    def _start(self, engine: Workflow) -> None:
        self._refuse_complete_run(engine)
        if engine.state.rank != 0:
            return
        own = self.configs / "train.json"
        if own.is_file() and self.configs.parent.resolve() != self.run.path.resolve():
            plain = bundle.of_one_process(self.config, self.configs)
            self.run.remember(changes=changed_settings(plain, ConfigParser.load_config_file(str(own))))
        bundle.export(self.run.path, self.config, self.configs, self.data_list)
        self._write_metadata()

    def _refuse_complete_run(self, engine: Workflow) -> None:
        """Refuse to write a complete run anew; one that was killed between its last epoch and its end is completed."""
        done, epochs = engine.state.epoch, engine.state.max_epochs
        is_complete = read_facts(self.run.path).get("completed_epoch") == done
        if done > epochs or (is_complete and (done == epochs or engine.should_terminate)):
            reason = f"nothing left to train: the run '{self.run.path}' has done {done} of {epochs} epochs"
            early = " and no better one came in time" if done < epochs else ""
            raise InputError(reason + early, remedy="raise --patience" if early else "raise --epochs")

    def _complete(self, engine: Workflow) -> None:
        ranks.gather(None)  # the first rank may still be writing the weights that all of them load now
        load_weights(self.run.best_model, self.network)
        state = self.evaluator.state
        best = state.best_metric, state.best_metric_epoch
        self.evaluator.run(max(engine.state.epoch, 1))
        self.report.gather()
        if best[1] > 0:  # on a GPU the same weights may score a hair better than they did in their own epoch
            state.best_metric, state.best_metric_epoch = best
        if engine.state.rank == 0:
            with counted_as("report", engine):
                self._report(engine)

    def _report(self, engine: Workflow) -> None:
        folder = self.run.path / "evaluation" / "validation"
        history = engine.state.history
        named = {"bundle": self.metadata.get("name", ""), "bundle.version": self.metadata.get("version", "")}
        tags = origin(engine.state.device, self.data_list, {**named, "seed": self.config.get("seed", "")})
        seconds, known = sum(row["time/epoch"] for row in history), read_facts(self.run.path)
        files = self.report.write(
            folder,
            title=self.run.path.name,
            history=history,
            config=self.config,
            changes=known.get("changes"),
            facts=origin_facts({**tags, "pruned": known.get("pruned")}, seconds, "time in epochs"),
        )
        figures.save(figures.curves(engine.state.history), folder / "curves.png")
        scores = json.loads((folder / "scores.json").read_text())
        description = self._write_metadata(scores).get("description", "")
        atomic_write_text(self.run.path / "docs" / "README.md", self._card(engine, description, scores))
        self._verify(engine)
        self._record_precision(engine)
        self._track(engine, [*files, folder / "curves.png"])

    def _write_metadata(self, scores: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Write what the run says of itself, at its start without scores, and return it."""
        metadata = describe_run(self.metadata, self.config, self.network, self.data_list, scores)
        bundle.write_config(self.run.path / "configs" / "metadata.json", metadata)
        return metadata

    def _verify(self, engine: Workflow) -> None:
        """Build the network of the exported inference.json, and compare it with the one that was trained."""
        file = self.run.path / "configs" / "inference.json"
        if not file.is_file():
            return
        parser = ConfigParser(ConfigParser.load_config_file(str(file)))
        exported = (
            load_weights(self.run.best_model, parser.get_parsed_content("network_def")).to(engine.state.device).eval()
        )
        patch = self._example(engine)
        with torch.no_grad():
            ours, theirs = self.network.eval()(patch), exported(patch)
        # Not to the last bit: the order of additions depends on how the weights lie in memory.
        if ours.shape != theirs.shape or not torch.allclose(
            ours, theirs, rtol=1e-3, atol=1e-3 * float(ours.abs().max())
        ):
            reason = "the network described by this file differs from the one that was trained"
            raise InputError(reason, file=file, remedy="name the network with the key `network_def` in both configs")

    def _record_precision(self, engine: Workflow) -> None:
        """Measure whether predictions may be in bfloat16; a training does not fail for that."""
        cases = getattr(getattr(self.evaluator.data_loader, "dataset", None), "data", None)
        if not cases or not (self.run.path / "configs" / "inference.json").is_file():
            return
        try:
            record_precision(self.run.path, cases, engine.state.device)
        except Exception as error:  # of a preprocessing that wants more than an image, for one
            logger.warning("no record of the precision, so predictions will be in float32: %s", error)

    def _example(self, engine: Workflow) -> torch.Tensor:
        """Return one input of the last training batch, or what comes next to it, as a plain tensor."""
        if engine.state.output:
            image = engine.state.output["image"]
        else:  # a run that was complete already: a validation image, as large as the network takes it
            image = torch.as_tensor(self.evaluator.state.output[0]["image"][None])
            network: Any = self.network
            if hasattr(network, "valid_input_size"):
                image = nn.functional.interpolate(image, network.valid_input_size(image.shape[2:]))
        return torch.as_tensor(image[:1]).to(engine.state.device).as_subclass(torch.Tensor)

    def _track(self, engine: Workflow, files: Sequence[Path]) -> None:
        for file in files:
            self.tracking.artifact(file, "evaluation/validation")
        for folder in ("configs", "docs", "models"):
            self.tracking.artifact(self.run.path / folder, f"bundle/{folder}")
        self.tracking.tag(model_digest=provenance.digest(self.run.best_model))
        self.tracking.model(self.network.eval(), self._example(engine).cpu().numpy())

    def _card(self, engine: Workflow, description: str, scores: dict[str, Any]) -> str:
        """Return the model card: what ran, what it came to, how to use it."""
        folder = self.run.path / "evaluation" / "validation"
        lines = [f"# {self.run.path.name}", "", description, ""]
        best = self.evaluator.state.best_metric_epoch
        lines += [f"Trained for {engine.state.epoch} epochs; the weights are those of epoch {best}.", ""]
        lines += ["## Validation", "", score_table(scores), ""]
        if (folder / "worst.png").is_file():
            lines += ["![the worst cases](../evaluation/validation/worst.png)", ""]
        lines += [
            "The validation cases chose the epoch, so these figures flatter a little: the test split says more.",
            "",
        ]
        lines += [
            "## Use",
            "",
            "```",
            "python -m monai.bundle run inference --config_file configs/inference.json --input_dir IN --output_dir OUT",
            "```",
            "",
        ]
        return "\n".join(lines)
