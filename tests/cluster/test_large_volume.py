"""One volume on many workers has the labels that it has in one process."""

import json
import os
import signal

import numpy as np
import psutil
import pytest
import zarr
from test_inference import bundle  # noqa: F401
from zarr_stores import entry_of, write_image

from pipeline.cluster.opening import Place
from pipeline.errors import InputError
from pipeline.inference import predict_with_bundle

NETWORK = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}
TILING = {"_target_": "pipeline.inferers.sliding_window.SlidingWindow", "roi_size": [16, 16, 16], "overlap": 0.25}


@pytest.fixture
def volume_bundle(bundle):  # noqa: F811
    """The bundle whose class 1 is what lies above 100.5, in 3D."""
    import torch

    file = bundle / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["predictor"] |= {"network": NETWORK, "inferer": TILING, "spatial_dims": 3, "class_names": ["dark", "light"]}
    config["predictor"]["preprocessing"]["spatial_dims"] = 3
    config["predictor"]["resume"] = "@resume"
    file.write_text(json.dumps(config))
    weights = {"weight": torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1), "bias": torch.tensor([0.0, -100.5])}
    torch.save(weights, bundle / "models" / "model.pt")
    return bundle


def make_store(folder, shape):
    array = np.random.default_rng(0).integers(0, 201, shape, dtype=np.uint8)
    write_image(folder, "0.5", [array], entry_of("zyx", [[1.0, 1.0, 1.0]], version="0.5"), chunks=(64, 64, 64))
    return array


def test_a_volume_is_shared_and_the_same(volume_bundle, running, tmp_path):
    array = make_store(tmp_path / "in" / "a.ome.zarr", (130, 140, 150))
    for out, place in (("alone", None), ("shared", Place(scheduler=running))):
        predict_with_bundle(volume_bundle, str(tmp_path / "in"), str(tmp_path / out), place=place)
        labels = zarr.open_array(tmp_path / out / "a.ome.zarr" / "labels" / "prediction" / "0", mode="r")[...]
        np.testing.assert_array_equal(labels, array > 100)
    first, second = (json.loads((tmp_path / out / "summary.json").read_text())[0] for out in ("alone", "shared"))
    timed = {key for key in {*first, *second} if key.startswith("seconds")}
    assert {key: first[key] for key in first if key not in timed} == {
        key: second[key] for key in second if key not in timed
    }
    assert second["seconds"] > 0
    assert (first["voxels/light"], first["status"]) == ((array > 100).sum(), "done")


def test_a_volume_that_cannot_be_read_is_told_as_in_one_process(volume_bundle, running, tmp_path):
    make_store(tmp_path / "in" / "a.ome.zarr", (20, 20, 20))
    (tmp_path / "in" / "a.ome.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    reasons = []
    for out, place in (("alone", None), ("shared", Place(scheduler=running))):
        with pytest.raises(InputError, match="1 of 1 images were not predicted"):
            predict_with_bundle(volume_bundle, str(tmp_path / "in"), str(tmp_path / out), place=place)
        reasons.append(json.loads((tmp_path / out / "summary.json").read_text())[0]["reason"])
    assert reasons[0] == reasons[1]
    assert "has no multiscales" in reasons[0]


def test_a_worker_that_is_killed_costs_the_volume_nothing(volume_bundle, running, tmp_path, monkeypatch):
    array = make_store(tmp_path / "in" / "a.ome.zarr", (130, 140, 150))
    from pipeline.cluster import large_volume

    run_on, killed = large_volume.run_on, []

    def killing(workforce, function, take, *rest):
        for ended in run_on(workforce, function, take, *rest):
            if function.func is large_volume.begin and not killed:  # all that follows has parts
                address = next(iter(workforce.workers))
                killed.append(workforce.client.run(os.getpid, workers=[address])[address])
                os.kill(killed[0], signal.SIGKILL)
            yield ended

    monkeypatch.setattr(large_volume, "run_on", killing)
    predict_with_bundle(volume_bundle, str(tmp_path / "in"), str(tmp_path / "out"), place=Place(scheduler=running))
    assert not psutil.pid_exists(killed[0]) or psutil.Process(killed[0]).status() == "zombie"
    labels = zarr.open_array(tmp_path / "out" / "a.ome.zarr" / "labels" / "prediction" / "0", mode="r")[...]
    np.testing.assert_array_equal(labels, array > 100)
