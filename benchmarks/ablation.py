"""What each technique does for membranes in electron microscopy: one change at a time, paired by fold and seed.

Every run is the 2D bundle with overlays and a training budget that one core can pay for, on the slices of the ISBI 2012
challenge: 4 folds by blocks of consecutive slices, 3 seeds. The weights are those of the last epoch, so the slices that
are held back choose nothing; they are only predicted, at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from measure import machine
from monai.bundle import ConfigWorkflow
from monai.engines import IterationEvents

from pipeline.datalists.datalist import save_data_list
from pipeline.datalists.isbi2012 import list_isbi2012
from pipeline.metrics.overlap import dice
from pipeline.metrics.pixel_error import pixel_error
from pipeline.metrics.rand_error import rand_error
from pipeline.metrics.vrand import vrand
from pipeline.volumes.reading import read_volume

BUNDLE = Path(__file__).parents[1] / "bundles" / "unet"
FOLDS, SEEDS = 4, 3
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of P(cell), of which the measures take the best
CHANNELS = [8, 16, 32, 64]
BUDGET: dict[str, Any] = {
    "network_def#channels": CHANNELS,
    "crop_size": [128, 128],
    "crops_per_case": 4,
    "epochs": 10,
}


@dataclass(frozen=True)
class Variant:
    """One change: overlays of the bundle and overrides, for training or, with the default's weights, at test time."""

    overlays: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    at_test_time: bool = False


VARIANTS = {
    "default": Variant(),
    "default, other seeds": Variant(overrides={"seed": 100}),  # is added to the seed: how far luck alone goes
    "loss_ce": Variant(("loss_ce",)),
    "loss_border": Variant(("loss_border",)),
    "loss_border_dice": Variant(("loss_border_dice",)),
    "loss_dice": Variant(("loss_dice",)),
    "no elastic": Variant(overrides={"spatial_augmentation#sigma": 0.0}),
    "aug_none": Variant(("aug_none",)),
    "net_paper": Variant(
        ("net_paper",), {"network_def#channels": CHANNELS, "crop_size": [220, 220], "batch_size": 4}
    ),  # whose output is 132 x 132
    "net_compact": Variant(("net_compact",), {"network_def#channels": [*CHANNELS, 128]}),
    "net_context": Variant(("net_context",), {"network_def#channels": CHANNELS[:3]}),
    "net_global_attention": Variant(("net_global_attention",)),
    "net_separate_attention": Variant(("net_separate_attention",)),
    "upsample nearest": Variant(overrides={"network_def#upsample": "nearest"}),
    "upsample linear": Variant(overrides={"network_def#upsample": "linear"}),
    "upsample cubic": Variant(overrides={"network_def#upsample": "cubic"}),
    "infer_rotations7": Variant(("infer_rotations7",), at_test_time=True),
    "infer_dihedral8": Variant(("infer_dihedral8",), at_test_time=True),
}
SCORES = {  # title of the column, and whether more is better
    "pixel_error": ("pixel error", False),
    "rand_error": ("Rand error", False),
    "vrand": ("V-Rand", True),
    "dice_membrane": ("Dice of membranes", True),
}
COSTS = ("seconds_per_step", "seconds_per_slice")  # of the processor
Row = dict[str, Any]


def prepare(data: Path, folder: Path) -> Path:
    """List the slices in `FOLDS` blocks of consecutive ones."""
    save_data_list(list_isbi2012(data, folder, n_folds=FOLDS).data_list, folder / "data_list.json")
    return folder


def configs(variant: Variant, *names: str) -> list[str]:
    """The bundle's files that a run is made of, the variant's overlays last."""
    overlays = [f"{name}.yaml" for name in ("data_isbi2012", *variant.overlays)]
    return [str(BUNDLE / "configs" / name) for name in (*names, *overlays)]


def settings(variant: Variant, dataset: Path, fold: int, seed: int) -> Row:
    """What is overridden in training and evaluation alike."""
    names = {"bundle_root": str(BUNDLE), "dataset_dir": str(dataset), "data_list": str(dataset / "data_list.json")}
    chosen = {"device": "cpu", "fold": fold, "seed": seed + variant.overrides.get("seed", 0)}
    return {**BUDGET, **names, **variant.overrides, **chosen}


def without_handlers(*names: str) -> Row:
    """Overrides that leave out handlers of the training by the end of their `_target_`: this is no run to be kept."""
    handlers = json.loads((BUNDLE / "configs" / "train.json").read_text())["train"]["handlers"]
    places = [place for place, handler in enumerate(handlers) if handler["_target_"].endswith(names)]
    return {f"train#handlers#{place}#_disabled_": True for place in places}


def train(variant: Variant, dataset: Path, folder: Path, fold: int, seed: int) -> Row:
    """Train, leave the last epoch's weights in `folder`/run/models/model.pt, and return what it cost."""
    options = settings(variant, dataset, fold, seed) | {"output_dir": str(folder), "run_name": "run"}
    options |= without_handlers("ValidationHandler", "RunBundle", "MLflowRun", "ProgressBar")
    workflow = ConfigWorkflow(
        configs(variant, "train.json"), workflow_type="training", run_id="training", logging_file=False, **options
    )
    workflow.initialize()
    trainer, clock = workflow.parser.get_parsed_content("train#trainer"), [process_time()]
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: clock.append(process_time()))
    workflow.run()
    network = workflow.parser.get_parsed_content("network_def")
    return {
        "steps": len(clock) - 1,
        "seconds_per_step": median(np.diff(clock[1:]).tolist()),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "last_loss": trainer.state.history[-1]["train/loss"],
    }


def evaluate(variant: Variant, dataset: Path, folder: Path, fold: int, seed: int) -> Row:
    """Predict the slices that were held back with the weights in `folder`/run, and score them as one stack."""
    options = settings(variant, dataset, fold, seed) | {
        "split": "validation",
        "checkpoint": str(folder / "run" / "models" / "model.pt"),
        "output_dir": str(folder / "evaluation"),
        "validate#handlers#1#tracking": None,
        "validate#handlers#1#pictures": 0,
        "validate#handlers#2#_disabled_": True,  # the progress bar
    }
    workflow = ConfigWorkflow(
        configs(variant, "train.json", "evaluate.json"),
        workflow_type="inference",
        run_id="evaluating",
        logging_file=False,
        **options,
    )
    workflow.initialize()
    evaluator = workflow.parser.get_parsed_content("evaluator")
    probability: dict[str, np.ndarray] = {}
    clock: list[float] = []

    def keep(engine: Any) -> None:
        (case,), (output,) = engine.state.batch, engine.state.output
        probability[case["id"]] = np.asarray(output["probabilities"][-1].cpu())

    evaluator.add_event_handler(Events.ITERATION_STARTED, lambda: clock.append(process_time()))
    evaluator.add_event_handler(IterationEvents.FORWARD_COMPLETED, lambda: clock.append(process_time()))
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, keep)
    workflow.run()
    records = workflow.parser.get_parsed_content("validate#dataset#data")
    truth = np.stack([read_volume(record["label"], 2, kind="label").array[0] > 0 for record in records])
    found = scores(truth, np.stack([probability[record["id"]] for record in records]))
    return {**found, "seconds_per_slice": median(np.diff(clock)[::2].tolist())}


def scores(truth: np.ndarray, prediction: np.ndarray) -> Row:
    """Score P(cell) of a stack of slices, both (slices, height, width)."""
    return {
        "pixel_error": pixel_error(truth, prediction, THRESHOLDS),
        "rand_error": rand_error(truth, prediction, THRESHOLDS),
        "vrand": vrand(truth, prediction, THRESHOLDS),
        "dice_membrane": float(dice(truth, prediction > 0.5, classes=2)[0]),
    }


def run(name: str, dataset: Path, fold: int, seed: int) -> list[Row]:
    """Train one variant and score it; the default's weights also serve the variants at test time."""
    with tempfile.TemporaryDirectory() as folder:
        cost = train(VARIANTS[name], dataset, Path(folder), fold, seed)
        cost |= {"budget": BUDGET, "machine": machine(), "date": date.today().isoformat()}
        same_weights = [other for other, variant in VARIANTS.items() if variant.at_test_time and name == "default"]
        return [
            {"variant": shown, "fold": fold, "seed": seed}
            | evaluate(VARIANTS[shown], dataset, Path(folder), fold, seed)
            | cost
            for shown in (name, *same_weights)
        ]


def run_grid(data: Path, file: Path, names: Sequence[str]) -> None:
    """Append the runs that `file` does not hold yet; the variants take turns, so that a busy hour slows all alike."""
    torch.set_num_threads(1)
    done = {(row["variant"], row["fold"], row["seed"]) for row in read_rows(file)}
    grid = [(seed, fold, name) for seed in range(SEEDS) for fold in range(FOLDS) for name in names]
    with tempfile.TemporaryDirectory() as folder:
        dataset = prepare(data, Path(folder))
        for place, (seed, fold, name) in enumerate(grid, start=1):
            if (name, fold, seed) in done:
                continue
            rows = run(name, dataset, fold, seed)
            with file.open("a") as lines:
                lines.write("".join(json.dumps(row) + "\n" for row in rows))
            print(f"{place}/{len(grid)} {name}, fold {fold}, seed {seed}: {rows[0]['pixel_error']:.4f}", flush=True)


def read_rows(file: Path) -> list[Row]:
    """The runs that stand in a file of JSON lines, all of this budget."""
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if any(row["budget"] != BUDGET for row in rows):
        raise SystemExit(f"{file} holds runs of another budget: name another file")
    return rows


def table(rows: Sequence[Row]) -> str:
    """Two Markdown tables: each variant's scores, and its differences to the default, paired by fold and seed."""
    runs = {name: {(row["fold"], row["seed"]): row for row in rows if row["variant"] == name} for name in VARIANTS}
    whole = {(fold, seed) for fold in range(FOLDS) for seed in range(SEEDS)}
    unfinished = [name for name, found in runs.items() if found.keys() != whole]
    runs = {name: found for name, found in runs.items() if name not in unfinished}
    if "default" in unfinished:
        raise SystemExit("the default, to which all else is compared, has not run on all folds and seeds")
    titles = " | ".join(title for title, _ in SCORES.values())
    lines = [f"| variant | {titles} | ms per step | ms per slice | parameters |", "|---" * (len(SCORES) + 4) + "|"]
    for name, found in runs.items():
        cells = [spread({key: row[score] for key, row in found.items()}) for score in SCORES]
        cells += [f"{median(1000 * row[cost] for row in found.values()):.0f}" for cost in COSTS]
        lines.append(f"| {name} | {' | '.join(cells)} | {next(iter(found.values()))['parameters']:,} |")
    lines += ["", f"| minus the default | {titles} |", "|---" * (len(SCORES) + 1) + "|"]
    for name, found in runs.items():
        if name != "default":
            cells = [difference(found, runs["default"], score, more) for score, (_, more) in SCORES.items()]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    if unfinished:
        lines += ["", f"Not run on all folds and seeds: {', '.join(unfinished)}."]
    return "\n".join(lines)


def spread(values: Mapping[tuple[int, int], float]) -> str:
    """Mean, standard deviation between the seeds of a fold, and in brackets that between the means of the folds."""
    folds = {fold: [value for (other, _), value in values.items() if other == fold] for fold, _ in values}
    between_seeds = math.sqrt(np.mean([np.var(found, ddof=1) for found in folds.values()]))
    between_folds = np.std([np.mean(found) for found in folds.values()], ddof=1)
    return f"{np.mean(list(values.values())):.4f} ± {between_seeds:.4f} ({between_folds:.4f})"


def difference(found: Mapping[Any, Row], default: Mapping[Any, Row], score: str, more_is_better: bool) -> str:
    """Mean of the paired differences, the lowest and highest mean of a seed, and how many pairs are for the better.

    Runs of one seed begin with the same weights in every fold, so that their differences are no independent ones.
    """
    differences = {key: found[key][score] - default[key][score] for key in default}
    of_seeds = [np.mean([differences[fold, seed] for fold in range(FOLDS)]) for seed in range(SEEDS)]
    better = sum(value > 0 if more_is_better else value < 0 for value in differences.values())
    mean = np.mean(list(differences.values()))
    return f"{mean:+.4f} [{min(of_seeds):+.4f}, {max(of_seeds):+.4f}], {better}/{len(differences)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the challenge's stacks, or its slices in images/ and labels/")
    parser.add_argument("--runs", type=Path, required=True, help="JSON lines, one per run; what stands there is kept")
    trained = [name for name, variant in VARIANTS.items() if not variant.at_test_time]
    parser.add_argument("--variants", nargs="+", choices=trained, default=trained, help="default: all")
    parser.add_argument("--table", action="store_true", help="print the tables of the runs that are there")
    options = parser.parse_args(arguments)
    if options.data is not None:
        run_grid(options.data, options.runs, options.variants)
    if options.table:
        print(table(read_rows(options.runs)))


if __name__ == "__main__":
    main()
