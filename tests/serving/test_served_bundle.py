import json
import shutil

import pytest
import torch
from discs import UNET

from pipeline.errors import InputError
from pipeline.serving.served_bundle import read_bundle


def test_the_network_is_trained_and_on_the_processor(bundle):
    weights = torch.load(bundle.folder / "models" / "model.pt", weights_only=True)
    state = bundle.network.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())
    assert not bundle.network.training


def test_what_a_bundle_says_of_itself(bundle):
    names = {"unet": ["background", "cell"], "unet3d": ["background", "liver", "kidney", "vessel"]}[bundle.folder.name]
    assert bundle.class_names == names
    assert bundle.spatial_dims == (3 if bundle.folder.name == "unet3d" else 2)
    assert (bundle.channels("inputs"), bundle.channels("outputs")) == (1, len(names))
    assert (bundle.key("inputs"), bundle.key("outputs")) == ("image", "pred")
    assert bundle.config == json.loads((bundle.folder / "configs" / "inference.json").read_text())


def test_a_single_output_is_the_foreground(bundle):
    network = torch.nn.Conv2d(1, 1, 1)
    network.in_channels, network.out_channels = 1, 1
    two = bundle._replace(network=network)
    assert two.class_names == bundle.class_names[1:]


def test_what_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(InputError, match="no bundle") as caught:
        read_bundle(tmp_path)
    assert "bundles/unet" in caught.value.remedy


def test_a_config_from_elsewhere_is_not_run(tmp_path):
    folder = shutil.copytree(UNET, tmp_path / "unet")
    file = folder / "configs" / "inference.json"
    harm = {"_target_": "os.mkdir", "path": str(tmp_path / "harmed")}
    file.write_text(json.dumps({**json.loads(file.read_text()), "network_def": harm}))
    with pytest.raises(InputError, match="is not run"):
        read_bundle(folder)
    assert not (tmp_path / "harmed").exists()
