"""Configs of bundles/unet merged with overlays, data that fit them, and options that make a training small."""

import json

import numpy as np
import tifffile
from discs import UNET, draw_discs, write_discs
from monai.bundle import ConfigParser
from PIL import Image

CONFIGS = UNET / "configs"
OVERLAYS = sorted(file.name for file in CONFIGS.glob("*.yaml"))
PAPER = ("net_paper.yaml", "loss_border.yaml", "aug_elastic.yaml", "opt_sgd99.yaml")
SIZE = 48  # of the discs' images


def settings(*overlays, file="train.json", configs=CONFIGS):
    """The merged config of a file and overlays, nothing resolved."""
    return ConfigParser.load_config_files([str(configs / name) for name in (file, *overlays)])


def merged(*overlays, file="train.json", **overrides):
    """A parser of the same, as the runner makes it."""
    parser = ConfigParser(settings(*overlays, file=file))
    parser.update(overrides)
    return parser


def names(overlays):
    return "+".join(name.removesuffix(".yaml") for name in overlays)


def write_variant(folder, channels, classes, kind):
    content = json.loads(write_discs(folder).read_text())
    for number, case in enumerate(content["cases"]):
        image, instances = draw_discs(number)
        if channels == 3:
            case["image"] = f"images/disc_{number}.png"
            (folder / "images" / f"disc_{number}.tif").unlink()
            grey = (image // 16).clip(0, 255).astype(np.uint8)
            Image.fromarray(np.stack([grey, 255 - grey, grey // 2], axis=-1)).save(folder / case["image"])
        if kind == "classes":
            tifffile.imwrite(folder / case["label"], (instances > 0).astype(np.uint8))
    content |= {"label_kind": kind, "classes": classes, "channels": ["red", "green", "blue"][:channels]}
    (folder / "discs.json").write_text(json.dumps(content))
    return folder


def small(overlays, data):
    options = {"epochs": 1, "batch_size": 2, "crop_size": [32, 32]}
    options |= {"dataset_dir": str(data), "data_list": str(data / "discs.json")}
    options["network_def#channels"] = [4, 8]
    if "net_paper.yaml" in overlays:
        options |= {"crop_size": [44, 44], "tiling#tile_size": 12}  # the crop's output is 28 x 28, tiles are 28 to 12
    return options


def predict(run, run_bundle, data, out, *overlays, **overrides):
    """Predict by the config that the run left, and return the label maps."""
    files = [run / "configs" / "inference.json", *(CONFIGS / name for name in overlays)]
    options = {"input_dir": str(data / "images"), "output_dir": str(out), "device": "cpu", **overrides}
    run_bundle("inference", *files, **options)
    return [np.asarray(Image.open(out / file.name)) for file in sorted((data / "images").iterdir())]
