"""A training begins with what fits of other weights, and says what does not."""

import pytest
import torch
from run_files import last, mlflow_run, same, weights

from pipeline.errors import InputError
from pipeline.handlers.start_from import start_from
from pipeline.networks.unet import UNet

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")


def saved(folder, network):
    torch.save(network.state_dict(), folder / "model.pt")
    return folder / "model.pt"


def test_all_of_a_like_network(tmp_path):
    old, new = UNet(2, 1, 2, [4, 8]), UNet(2, 1, 2, [4, 8])
    assert not same(old.state_dict(), new.state_dict())
    assert start_from(saved(tmp_path, old), new) == []
    assert same(old.state_dict(), new.state_dict())


def test_all_but_the_classes_where_there_are_others(tmp_path, caplog):
    old, new = UNet(2, 1, 2, [4, 8]), UNet(2, 1, 3, [4, 8])
    before = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    anew = start_from(saved(tmp_path, old), new)
    assert len(anew) == 2
    for name, tensor in new.state_dict().items():
        assert torch.equal(tensor, before[name] if name in anew else old.state_dict()[name]), name
    assert f"begin anew: {', '.join(anew)}" in caplog.text


@pytest.mark.parametrize("other", [UNet(2, 1, 2, [6, 12]), UNet(3, 1, 2, [4, 8])], ids=["wider", "3D"])
def test_nothing_of_another_network(tmp_path, other):
    with pytest.raises(InputError, match="no layer of these weights fits"):
        start_from(saved(tmp_path, other), UNet(2, 1, 2, [4, 8]))


def test_a_training_begins_there_and_a_resumed_one_with_its_own(run_bundle, tmp_path):
    # A network that learns nothing keeps what it began with.
    still = {"optimizer#lr": 0.0, "epochs": 1, "network_def#norm": None}
    run_bundle("training", "train.json", run_name="none", **still)
    file = tmp_path / "runs" / "none" / "models" / "model.pt"
    run_bundle("training", "train.json", run_name="second", start_from=str(file), seed=7, **still)
    second = tmp_path / "runs" / "second"
    assert same(weights(second), weights(tmp_path / "runs" / "none"))
    _, tracked = mlflow_run(tmp_path, second)
    assert tracked.data.params["start_from"] == str(file)
    file.unlink()
    run_bundle("training", "train.json", run_name="second", resume=True, seed=7, **{**still, "epochs": 2})
    assert last(second)["trainer"]["epoch"] == 2
    with pytest.raises(InputError, match="start_from names no file"):
        run_bundle("training", "train.json", run_name="third", start_from=str(file), **still)
