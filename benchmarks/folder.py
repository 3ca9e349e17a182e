"""Claim: a folder of volumes takes little more than its forwards, and a fraction of what MONAI and nnU-Net take.

From load to saved file. MONAI runs as the inference configs of its model zoo say, with the same network; that a trained
network's labels are MONAI's is tests/end_to_end/test_folder_against_monai.py. nnU-Net is
left out where it cannot be imported (`pip install nnunetv2`); it has its own network of equal size, no mirroring, the
threads and processes that it chooses, and one turn after all others, for it takes minutes.
"""

from __future__ import annotations

import argparse
import logging
import math
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from time import perf_counter

import nibabel as nib
import numpy as np
import torch
from measure import interleaved, record
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.inferers import SlidingWindowInferer
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
    SaveImaged,
    Spacingd,
)
from torch import nn

from pipeline.execution import prepare
from pipeline.heap import use_large_pages
from pipeline.inferers.sliding_window import SlidingWindow
from pipeline.networks.precision import has_bfloat16
from pipeline.predict import FolderPredictor
from pipeline.transforms.classes_from_logits import ClassesFromLogitsd
from pipeline.transforms.load_image import StrictLoadImaged
from pipeline.transforms.save_image import AtomicSaveImaged
from pipeline.transforms.standardise import Standardised
from pipeline.transforms.to_grid import FromGridd, ToGridd

SIZE, VOXEL = (160, 160, 96), (0.8, 0.8, 2.0)  # mm
SPACING = (1.0, 1.0, 1.5)  # 128 x 128 x 128 voxels
WINDOW, OVERLAP, TOGETHER = (96, 96, 96), 0.5, 2
CHANNELS, CLASSES = (16, 32, 64, 128, 256), 3
WINDOWS = math.prod(2 for _ in WINDOW)  # of each volume: 96 voxels at 0 and at 32 along each axis


def make_volumes(folder: Path, count: int) -> list[Path]:
    """Write volumes of a bright and a dark ball in noise, int16, whose axes point to the left and to the back."""
    folder.mkdir()
    files = []
    for number in range(count):
        random = np.random.default_rng(number)
        x, y, z = np.ogrid[tuple(slice(-1, 1, complex(n)) for n in SIZE)]
        voxels = random.normal(0, 20, SIZE)
        for sign in (-1, 1):
            voxels[(x + 0.4 * sign) ** 2 + y**2 + z**2 < random.uniform(0.05, 0.2)] += sign * 100
        affine = np.diag([-VOXEL[0], -VOXEL[1], VOXEL[2], 1.0])
        files.append(folder / f"case{number:03}_0000.nii.gz")
        nib.save(nib.Nifti1Image(voxels.astype(np.int16), affine), files[-1])
    return files


def make_network() -> nn.Module:
    """The network of MONAI's segmentation bundles, untrained."""
    torch.manual_seed(0)
    return UNet(3, 1, CLASSES, CHANNELS, strides=(2,) * (len(CHANNELS) - 1), num_res_units=2, norm="batch").eval()


@torch.inference_mode()
def forwards(network: nn.Module, cases: int) -> None:
    """Nothing but what the network computes for so many volumes."""
    windows = torch.zeros(TOGETHER, 1, *WINDOW)
    for _ in range(cases * WINDOWS // TOGETHER):
        network(windows)


def ours(precision: str, weights: Path, files: list[Path], output: Path) -> None:
    """`FolderPredictor`, as `python -m pipeline predict` runs it."""
    FolderPredictor(
        input_dir=str(files[0].parent),
        output_dir=str(output),
        network=make_network(),
        weights=str(weights),
        precision=precision,
        backend="torch",
        preprocessing=Compose(
            [
                StrictLoadImaged("image", spatial_dims=3),
                ToGridd("image", axcodes="RAS", spacing=SPACING),
                Standardised("image"),
            ]
        ),
        inferer=SlidingWindow(WINDOW, TOGETHER, OVERLAP, mode="gaussian"),
        postprocessing=Compose(
            [FromGridd("pred"), ClassesFromLogitsd("pred"), AtomicSaveImaged("pred", output_dir=output)]
        ),
        spatial_dims=3,
        class_names=["background", "bright", "dark"],
    ).run()


def stock(network: nn.Module, files: list[Path], output: Path) -> None:
    """What the inference configs of MONAI's model zoo say, of MONAI's own parts, in float32."""
    before = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=SPACING, mode="bilinear"),
            NormalizeIntensityd("image", channel_wise=True),
        ]
    )
    after = Compose(
        [
            Activationsd("pred", softmax=True),
            Invertd("pred", transform=before, orig_keys="image", nearest_interp=False, to_tensor=True),
            AsDiscreted("pred", argmax=True),
            SaveImaged("pred", output_dir=output, output_postfix="seg", resample=False, print_log=False),
        ]
    )
    loader = DataLoader(Dataset([{"image": str(file)} for file in files], before), batch_size=1, num_workers=0)
    SupervisedEvaluator(
        torch.device("cpu"),
        loader,
        network,
        inferer=SlidingWindowInferer(WINDOW, sw_batch_size=1, overlap=OVERLAP, mode="gaussian"),
        postprocessing=after,
        decollate=True,
    ).run()


def nnunet(files: list[Path], output: Path) -> None:
    """nnU-Net's predictor with its own network of equal size, in float32 as it always is on a CPU."""
    predictor = make_nnunet()
    output.mkdir(exist_ok=True)
    predictor.predict_from_files([[str(file)] for file in files], [str(output / file.name[:7]) for file in files])


def make_nnunet() -> object:
    """An `nnUNetPredictor` with plans for these volumes; its axes and spacings run from the last to the first."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    levels = len(CHANNELS)
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(WINDOW[::-1]),
        "spacing": list(SPACING[::-1]),
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        **{f"resampling_fn_{what}": "resample_data_or_seg_to_shape" for what in ("data", "seg", "probabilities")},
        "resampling_fn_data_kwargs": {**resampling, "order": 3},
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True},
        "resampling_fn_probabilities_kwargs": resampling,
        "architecture": {"network_class_name": "", "arch_kwargs": {}, "_kw_requires_import": []},
    }
    plans = {
        "dataset_name": "Dataset001_balls",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": {}},
        "configurations": {"3d_fullres": configuration},
    }
    dataset = {
        "channel_names": {"0": "balls"},
        "labels": {"background": 0, "bright": 1, "dark": 2},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    torch.manual_seed(0)
    network = PlainConvUNet(
        *(1, levels, CHANNELS, nn.Conv3d, 3, (1, *[2] * (levels - 1)), 2, CLASSES, 2),
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU,
    )
    manager = PlansManager(plans)
    predictor = nnUNetPredictor(
        tile_step_size=1 - OVERLAP, use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu")
    )
    predictor.allow_tqdm = False
    chosen = manager.get_configuration("3d_fullres")
    predictor.manual_initialization(network, manager, chosen, [network.state_dict()], dataset, "nnUNetTrainer", None)
    return predictor


def main() -> None:
    """Print the table, and write the ratios to `--output`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="JSON list in which the figures are kept, by name")
    parser.add_argument("--data", type=Path, help="a folder of .nii.gz volumes to take instead of made ones")
    parser.add_argument("--cases", type=int, default=6, help="volumes in the folder (6)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each candidate has its turn (5)")
    options = parser.parse_args()
    use_large_pages()  # as the command does; it helps all candidates
    logging.getLogger("ignite").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Let the candidates take turns, and compare their medians."""
    files = sorted(options.data.glob("*.nii.gz"))[: options.cases] if options.data else None
    files = files or make_volumes(folder / "in", options.cases)
    plain, weights = make_network(), folder / "model.pt"
    torch.save(plain.state_dict(), weights)
    precisions = ["float32", *(["bfloat16"] if has_bfloat16("cpu") else [])]
    runs: dict[str, Callable[[], object]] = {}
    for precision in precisions:
        alone = prepare(make_network(), weights, "cpu", precision, "torch")
        runs[f"forwards, {precision}"] = partial(forwards, alone, len(files))
        runs[f"ours, {precision}"] = partial(ours, precision, weights, files, folder / f"ours_{precision}")
    runs["MONAI"] = partial(stock, plain, files, folder / "monai")
    seconds = {name: taken / 1e3 for name, taken in interleaved(runs, options.rounds).items()}
    if find_spec("nnunetv2"):
        start = perf_counter()
        with redirect_stdout(StringIO()):
            nnunet(files, folder / "nnunet")
        seconds["nnU-Net"] = perf_counter() - start
    else:
        print("nnU-Net is not installed, and left out: pip install nnunetv2")
    print(f"{len(files)} volumes of {'x'.join(map(str, SIZE))}; {torch.get_num_threads()} threads")
    for name, taken in seconds.items():
        print(f"{name:24} {taken / len(files):8.2f} s a case", flush=True)
    goals = {("float32", "MONAI"): 2, ("bfloat16", "MONAI"): 5, ("float32", "nnU-Net"): 2}
    for precision, at_most in (("float32", 1.1), ("bfloat16", 1.3)):
        if precision not in precisions:
            continue
        own = seconds[f"ours, {precision}"]
        alone = seconds[f"forwards, {precision}"]
        report(options.output, f"folder beside its forwards, {precision}", own / alone, at_most)
        for (other_precision, other), goal in goals.items():
            if other_precision == precision and other in seconds:
                name = f"folder of volumes, {precision}, than {other}"
                report(options.output, name, seconds[other] / own, goal, "times faster")


def report(output: Path | None, name: str, ratio: float, goal: float, unit: str = "times the forwards") -> None:
    """Print one line of the table, and keep its ratio."""
    is_cost = unit != "times faster"
    print(f"{name:54} {ratio:6.2f} {unit:20} {'<=' if is_cost else '>='} {goal}", flush=True)
    record(output, name, ratio, None if is_cost else goal, unit, at_most=goal if is_cost else None)


if __name__ == "__main__":
    main()
