"""Child of versus.py: a training in the manner of MONAI's model zoo, made of MONAI's own parts.

A cached data set, crops, flips and shifts of intensity, the residual UNet of 16 to 256 channels, Dice and
cross-entropy, Adam with 1e-4, and the best checkpoint by validation Dice; float16 on a GPU, float32 on a processor,
as `amp: true` means there. One setting for all data; the clock alone ends the training.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import time
from typing import Any

import monai
import nibabel as nib
import numpy as np
import psutil
import torch
from ignite.engine import Engine, Events
from monai.data import CacheDataset, DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import CheckpointLoader, CheckpointSaver, MeanDice, ValidationHandler, from_engine
from monai.inferers import Inferer, SlidingWindowInferer
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    Spacingd,
    SpatialPadd,
)
from PIL import Image
from versus_job import Job, work

from pipeline.transforms.instances_to_mask import InstancesToMaskd

IMAGES, CROPS, CROP = 2, 4, {2: 128, 3: 48}  # of a batch; crops of an image; pixels or voxels along each axis
SPACING = (1.0, 1.0, 1.0)  # mm, that of the volumes
INTERVAL = 50  # iterations between two validations
BOTH = ["image", "label"]
Steps = list[Callable[[Any], Any]]


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def network(job: Job) -> UNet:
    """The network of the zoo's segmentation bundles."""
    channels = (16, 32, 64, 128, 256)
    dims, classes = job.cases.spatial_dims, len(job.cases.classes)
    return UNet(dims, 1, classes, channels, strides=(2,) * 4, num_res_units=2, norm="batch").to(device())


def preprocessing(job: Job, keys: list[str]) -> Steps:
    """What every case passes through; `keys` is image, or image and label."""
    if job.cases.spatial_dims == 3:
        modes = ["bilinear", "nearest"][: len(keys)]
        steps: Steps = [
            LoadImaged(keys, reader="NibabelReader"),
            EnsureChannelFirstd(keys),
            Orientationd(keys, axcodes="RAS", labels=None),
            Spacingd(keys, pixdim=SPACING, mode=modes),
        ]
    else:
        steps = [
            LoadImaged(keys, reader="PILReader", reverse_indexing=False),
            EnsureChannelFirstd(keys, channel_dim="no_channel"),
        ]
    if "label" in keys:
        steps += labels(job)
    return [*steps, NormalizeIntensityd("image", channel_wise=True)]


def labels(job: Job) -> Steps:
    """Files of objects or of 0 and 255 to classes."""
    if job.cases.label_kind == "instances":
        return [InstancesToMaskd("label", gap=1)]  # the same line between touching objects that all systems learn
    return [AsDiscreted("label", threshold=0.5)] if len(job.cases.classes) == 2 else []


def augmentation(dims: int) -> Steps:
    """Crops around the foreground and the background in turn, then flips and shifts."""
    size = (CROP[dims],) * dims
    crop = RandCropByPosNegLabeld(BOTH, label_key="label", spatial_size=size, pos=1, neg=1, num_samples=CROPS)
    flips = [RandFlipd(BOTH, prob=0.5, spatial_axis=axis) for axis in range(dims)]
    shifts = [RandScaleIntensityd("image", factors=0.1, prob=0.5), RandShiftIntensityd("image", offsets=0.1, prob=0.5)]
    return [SpatialPadd(BOTH, spatial_size=size), crop, *flips, *shifts]


def inferer(dims: int) -> Inferer:
    """Windows of the crops' size that overlap by half."""
    return SlidingWindowInferer((CROP[dims],) * dims, sw_batch_size=4, overlap=0.5)


def train(job: Job) -> None:
    """Train until the budget is over, and leave the best weights in models/model.pt."""
    end = psutil.Process().create_time() + job.budget  # the imports count
    torch.backends.cudnn.benchmark = True  # as the zoo's bundles set it
    dims, net = job.cases.spatial_dims, network(job)
    steps = preprocessing(job, BOTH)
    workers = min(4, os.cpu_count() or 1)
    cases = CacheDataset(job.records("training"), Compose([*steps, *augmentation(dims)]), progress=False)
    loader = DataLoader(cases, batch_size=IMAGES, shuffle=True, num_workers=workers, persistent_workers=True)
    evaluator = make_evaluator(job, net, steps)
    trainer = SupervisedTrainer(
        device(),
        max_epochs=1_000_000,
        train_data_loader=loader,
        network=net,
        optimizer=torch.optim.Adam(net.parameters(), 1e-4),
        loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
        inferer=None,
        amp=torch.cuda.is_available(),
        train_handlers=[ValidationHandler(INTERVAL, evaluator, epoch_level=False)],
    )
    stop_in_time(trainer, evaluator, end)
    trainer.run()
    if trainer.state.iteration % INTERVAL:
        evaluator.run(trainer.state.epoch)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    job.write_report(
        steps=trainer.state.iteration, parameters=parameters, versions={"monai": monai.__version__}, **remark(trainer)
    )


def remark(trainer: Engine) -> dict[str, str]:
    """What has to be said of a training that was too short to be compared."""
    return {"note": "no validation before the end"} if trainer.state.iteration < INTERVAL else {}


def stop_in_time(trainer: Engine, evaluator: Engine, end: float) -> None:
    """Stop so early that the last validation, as long as the longest so far, ends with the budget."""
    validation, begun = [0.0], [0.0]

    def start(_: Engine) -> None:
        begun[0] = time()

    def stop(_: Engine) -> None:
        validation[0] = max(validation[0], time() - begun[0])

    def look(engine: Engine) -> None:
        if time() + validation[0] > end:
            engine.terminate()

    evaluator.add_event_handler(Events.STARTED, start)
    evaluator.add_event_handler(Events.COMPLETED, stop)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, look)


def make_evaluator(job: Job, net: UNet, steps: Steps) -> SupervisedEvaluator:
    """The validation, which keeps the best weights."""
    cases = CacheDataset(job.records("validation"), Compose(steps), progress=False)
    classes = len(job.cases.classes)
    after = [
        Activationsd("pred", softmax=True),
        AsDiscreted(["pred", "label"], argmax=[True, False], to_onehot=classes),
    ]
    return SupervisedEvaluator(
        device(),
        DataLoader(cases, batch_size=1),
        net,
        inferer=inferer(job.cases.spatial_dims),
        amp=torch.cuda.is_available(),
        postprocessing=Compose(after),
        key_val_metric={
            "mean_dice": MeanDice(include_background=False, output_transform=from_engine(["pred", "label"]))
        },
        val_handlers=[
            CheckpointSaver(
                str(job.work / "models"), {"net": net}, save_key_metric=True, key_metric_filename="model.pt"
            )
        ],
    )


def predict(job: Job) -> None:
    """Predict the test cases with the best weights, on the grids of their files."""
    steps = Compose(preprocessing(job, ["image"]))
    after: Steps = [Activationsd("pred", softmax=True)]
    if job.cases.spatial_dims == 3:
        after += [Invertd("pred", transform=steps, orig_keys="image", nearest_interp=False, to_tensor=True)]
    net = network(job)
    engine = SupervisedEvaluator(
        device(),
        DataLoader(Dataset(job.records("test"), steps), batch_size=1),
        net,
        inferer=inferer(job.cases.spatial_dims),
        amp=torch.cuda.is_available(),
        postprocessing=Compose(after),
        val_handlers=[CheckpointLoader(str(job.work / "models" / "model.pt"), {"net": net})],
    )

    def save_batch(engine: Any) -> None:
        for case, output in zip(engine.state.batch, engine.state.output, strict=True):
            save(job, case, output["pred"].cpu().numpy())

    engine.add_event_handler(Events.ITERATION_COMPLETED, save_batch)
    engine.run()


def save(job: Job, case: dict[str, Any], probabilities: np.ndarray) -> None:
    """Write the label map of a case, and P(cell) where thresholds are tried on it."""
    found, stem = probabilities.argmax(0).astype(np.uint8), job.predictions / case["id"]
    if job.cases.spatial_dims == 3:
        like = nib.Nifti1Image.from_filename(case["image"].meta["filename_or_obj"])
        nib.save(nib.Nifti1Image(found, like.affine), f"{stem}.nii.gz")
    else:
        Image.fromarray(found).save(f"{stem}.png")
    if job.wants_probabilities:
        np.save(f"{stem}.npy", probabilities[-1].astype(np.float16))


if __name__ == "__main__":
    work(train, predict)
