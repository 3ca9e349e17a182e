"""Child of versus.py: nnU-Net v2 with its own plan, trainer and predictor, and a schedule that ends with the budget.

Nothing of nnU-Net is changed but the numbers that its trainer has for that purpose: epochs, and iterations of an epoch.
Its patch, batch, network, augmentation and mirroring are what its planner and its defaults say.
"""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import time
from typing import Any

import numpy as np
import psutil
from PIL import Image
from versus_job import FOLD, Job, work

from pipeline.transforms.instances_to_mask import separate_instances
from pipeline.volumes.reading import read_volume

DATASET, NAME = 1, "Dataset001_versus"
TIMED, SHARE = 4, 0.1  # iterations that are timed first, but for no more than this share of the budget
EPOCH, LEAST_EPOCHS = 60.0, 5  # seconds: after each one it draws its curves and saves; and how often the rate falls
FEW = 5  # iterations of which nothing can be expected
CORES = os.cpu_count() or 1


def train(job: Job) -> None:
    """Convert, plan, preprocess, and train until the budget is over."""
    end = psutil.Process().create_time() + job.budget  # the imports count
    set_folders(job.work)
    convert(job)
    configuration = preprocess(job)
    trainer = make_trainer(configuration)
    seconds = time_iterations(trainer, SHARE * job.budget)
    clock = Clock(trainer, seconds, end)
    trainer.run_training()
    steps = clock.steps + len(seconds)
    note = {"note": f"only {steps} iterations fitted, of {median(seconds):.1f} s each"} if steps < FEW else {}
    job.write_report(
        steps=steps,
        parameters=sum(parameter.numel() for parameter in trainer.network.parameters()),
        versions={"nnunetv2": version("nnunetv2")},
        plan=plan_of(trainer),
        **note,
    )


def set_folders(folder: Path) -> None:
    """Tell nnU-Net, before it is imported, where its files go."""
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(folder / name)


def convert(job: Job) -> None:
    """Lay out training and validation cases as nnU-Net wants them, in our split."""
    raw, preprocessed = job.work / "raw" / NAME, job.work / "preprocessed" / NAME
    for folder in (raw / "imagesTr", raw / "labelsTr", preprocessed):
        folder.mkdir(parents=True)
    split = {"train": job.records("training"), "val": job.records("validation")}
    cases = [case for records in split.values() for case in records]
    ending = ".nii.gz" if job.cases.spatial_dims == 3 else ".png"
    for case in cases:
        (raw / "imagesTr" / f"{case['id']}_0000{ending}").symlink_to(case["image"])
        write_label(job, case, raw / "labelsTr" / f"{case['id']}{ending}")
    document: dict[str, Any] = {
        "channel_names": dict(enumerate(job.cases.channels)),
        "labels": {"background": 0} | {name: number for number, name in enumerate(job.cases.classes) if number},
        "numTraining": len(cases),
        "file_ending": ending,
    }
    if job.cases.spatial_dims == 2:
        document["overwrite_image_reader_writer"] = "NaturalImage2DIO"
    (raw / "dataset.json").write_text(json.dumps(document))
    folds = [{name: [case["id"] for case in records] for name, records in split.items()}]
    (preprocessed / "splits_final.json").write_text(json.dumps(folds))


def write_label(job: Job, case: dict[str, Any], file: Path) -> None:
    """Write classes 0, 1, ...; of objects, the mask with a line between touching ones that all systems learn."""
    if job.cases.spatial_dims == 3:
        file.symlink_to(case["label"])
        return
    label = read_volume(case["label"], 2, case["id"], "label").array[0]
    if job.cases.label_kind == "instances":
        label = separate_instances(label, 1)
    Image.fromarray((label > 0).astype(np.uint8)).save(file)


def preprocess(job: Job) -> str:
    """Fingerprint, plan and preprocessing by its own defaults; return the configuration that it recommends first.

    As many processes as cores, not its eight: each takes seconds to import torch, which the budget would pay for.
    """
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    configuration = "3d_fullres" if job.cases.spatial_dims == 3 else "2d"
    api.extract_fingerprint_dataset(DATASET, num_processes=CORES, show_progress_bar=False)
    _, plans = api.plan_experiment_dataset(DATASET)
    api.preprocess_dataset(DATASET, plans, (configuration,), (CORES,), show_progress_bar=False)
    return configuration


def device() -> Any:
    """The GPU where there is one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_trainer(configuration: str) -> Any:
    """Its own trainer, ready for the first iteration."""
    from nnunetv2.run.run_training import get_trainer_from_args

    trainer = get_trainer_from_args(str(DATASET), configuration, FOLD, device=device())
    trainer.on_train_start()
    trainer.on_train_start = lambda: None  # it has been
    return trainer


def time_iterations(trainer: Any, longest: float) -> list[float]:
    """Do a few iterations at the first learning rate, and return their seconds."""
    trainer.network.train()
    seconds: list[float] = []
    while len(seconds) < TIMED and sum(seconds) < longest:
        begun = time()
        trainer.train_step(next(trainer.dataloader_train))
        seconds.append(time() - begun)
    return seconds


class Clock:
    """Divides the time that is left among the epochs, anew before each, so that the last one ends with the budget.

    The rate falls by epochs, as nnU-Net's polynomial has it, and reaches its end with them. No epoch is longer, and
    there are no more of them, than nnU-Net's own.

    Args:
        trainer: an nnUNetTrainer that is ready.
        seconds: of the iterations so far, the first of which warmed up.
        end: of the budget, in seconds since 1970.
    """

    def __init__(self, trainer: Any, seconds: list[float], end: float) -> None:
        self.trainer, self.end, self.steps = trainer, end, 0
        self.step, self.around = min(seconds), 0.0  # seconds of an iteration, and of an epoch beside its iterations
        self.longest, longest_validation = trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch
        left = end - time()
        fitting = max(int(left / self.step), 1)
        epochs = max(LEAST_EPOCHS, round(left / EPOCH), round(fitting / self.longest))
        trainer.num_epochs = max(1, min(epochs, fitting, trainer.num_epochs))
        trainer.num_val_iterations_per_epoch = max(1, min(fitting // trainer.num_epochs // 10, longest_validation))
        trainer.save_every = 1
        trainer.optimizer, trainer.lr_scheduler = trainer.configure_optimizers()  # for so many epochs
        self._stock = trainer.on_epoch_start
        trainer.on_epoch_start, trainer.on_train_epoch_end = self._start, self._after(trainer.on_train_epoch_end)
        self._begun = self._trained = 0.0

    def _start(self) -> None:
        now, trainer = time(), self.trainer
        if self._begun:
            self.around = now - self._trained
        share = (self.end - now) / (trainer.num_epochs - trainer.current_epoch)
        fitting = int((share - self.around) / self.step)
        trainer.num_iterations_per_epoch = max(1, min(fitting, self.longest))
        self._begun = now
        self._stock()

    def _after(self, stock: Any) -> Any:
        def on_train_epoch_end(outputs: list[dict[str, Any]]) -> None:
            self._trained = time()
            self.steps += len(outputs)
            self.step = (self._trained - self._begun) / len(outputs)
            stock(outputs)

        return on_train_epoch_end


def plan_of(trainer: Any) -> dict[str, Any]:
    """What its planner decided, for the record."""
    chosen = trainer.configuration_manager
    return {
        "patch": list(map(int, chosen.patch_size)),
        "batch": int(chosen.batch_size),
        "channels": list(map(int, chosen.network_arch_init_kwargs["features_per_stage"])),
        "epochs": trainer.num_epochs,
    }


def predict(job: Job) -> None:
    """Predict the test cases with the final weights, mirrored as its default is."""
    set_folders(job.work)
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    (fold,) = (job.work / "results" / NAME).glob(f"*/fold_{FOLD}")
    predictor = nnUNetPredictor(device=device(), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(fold.parent), (FOLD,))
    cases = job.records("test")
    stems = [str(job.predictions / case["id"]) for case in cases]
    processes = {"num_processes_preprocessing": CORES, "num_processes_segmentation_export": CORES}
    predictor.predict_from_files([[case["image"]] for case in cases], stems, job.wants_probabilities, **processes)
    for stem in stems if job.wants_probabilities else ():
        np.save(f"{stem}.npy", np.load(f"{stem}.npz")["probabilities"][-1, 0].astype(np.float16))


if __name__ == "__main__":
    work(train, predict)
