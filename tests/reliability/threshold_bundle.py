"""A bundle whose network only asks where an image is above 0."""

import json
import shutil
from pathlib import Path

import torch
from monai.bundle import ConfigParser

TESTS = Path(__file__).parents[1]
BUNDLES = TESTS.parent / "bundles"


def write_threshold_bundle(folder, dims):
    """A bundle whose weights give the logits (0, x): the class is 1 where the image is above 0."""
    configs = BUNDLES / {2: "unet", 3: "unet3d"}[dims] / "configs"
    config = ConfigParser.load_config_file(str(configs / "inference.json"))
    network = {"_target_": f"torch.nn.Conv{dims}d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}
    config |= {"bundle_root": "$bundle.root()", "network_def": network, "class_names": ["background", "above 0"]}
    config["device"] = "cpu"
    if dims == 3:
        config |= {"normalisation": [], "spacing": [None, None, None], "crop_size": [32, 32, 32]}
    else:
        config["preprocessing"]["transforms"] = config["preprocessing"]["transforms"][:1]  # reading alone
    (folder / "configs").mkdir()
    shutil.copy(configs / "metadata.json", folder / "configs")
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "models").mkdir()
    write_weights(folder, dims)
    return folder


def write_weights(folder, dims, at=0.0):
    """Weights of which the threshold is `at`."""
    state = {"weight": torch.tensor([0.0, 1.0]).reshape(2, 1, *[1] * dims), "bias": torch.tensor([0.0, -at])}
    torch.save(state, folder / "models" / "model.pt")
