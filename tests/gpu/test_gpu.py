"""On a GPU: mixed-precision training, inference, the same result as on the CPU. Skipped where there is none."""

import numpy as np
import pytest
import tifffile
import torch
from run_files import last

from pipeline.losses.weighted import WeightedDiceCELoss
from pipeline.networks.unet import UNet

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """TF32 would blur the comparison with the CPU."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_forward_and_gradient_equal_those_of_the_cpu(spatial_dims):
    torch.manual_seed(0)
    network = UNet(spatial_dims=spatial_dims, channels=(8, 16, 32), norm="instance")
    image = torch.randn(2, 1, *([32] * spatial_dims))
    target = (torch.rand(2, 1, *([32] * spatial_dims)) > 0.5).float()
    results = []
    for device in ("cpu", "cuda"):
        network.to(device).zero_grad()
        logits = network(image.to(device))
        WeightedDiceCELoss()(logits, target.to(device)).backward()
        results.append([logits.detach().cpu(), *(parameter.grad.cpu() for parameter in network.parameters())])
    for cpu, gpu in zip(*results, strict=True):
        torch.testing.assert_close(gpu, cpu, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("compile_network", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_with_mixed_precision_learns(run_bundle, only_run, dtype, compile_network):
    options = {"device": "cuda", "epochs": 12, "learning_rate": 0.02, "compile": compile_network, "train#dtype": dtype}
    run_bundle("training", "train.json", **options)
    state = torch.load(only_run() / "checkpoints" / "last.pt", weights_only=True)
    assert state["best"]["metric"] > 0.5
    assert ("scaler" in state) == (dtype == torch.float16)


def test_the_stages_of_a_training_on_a_gpu_sum_to_its_time(run_bundle, only_run):
    run_bundle("training", "train.json", device="cuda", epochs=3)
    *_, row = last(only_run())["trainer"]["history"]
    stages = [seconds for name, seconds in row.items() if name.startswith("time/") and name != "time/epoch"]
    assert min(stages) >= 0
    assert sum(stages) == pytest.approx(row["time/epoch"], rel=0.3)


def test_a_resumed_run_goes_on_where_it_stopped(run_bundle, tmp_path):
    run_bundle("training", "train.json", device="cuda", epochs=2, run_name="a")
    run_bundle("training", "train.json", device="cuda", epochs=4, run_name="a", resume=True)
    state = last(tmp_path / "runs" / "a")
    assert [row["epoch"] for row in state["trainer"]["history"]] == [1, 2, 3, 4]


def test_labels_equal_those_of_the_cpu(run_bundle, trained, discs, tmp_path):
    for device in ("cpu", "cuda"):
        options = {"input_dir": str(discs / "images"), "output_dir": str(tmp_path / device), "device": device}
        run_bundle("inference", trained / "configs" / "inference.json", **options)
    pairs = [[tifffile.imread(tmp_path / device / f"disc_{n}.tif") for device in ("cpu", "cuda")] for n in range(8)]
    cpu, gpu = np.array(pairs).swapaxes(0, 1)
    assert (cpu == gpu).mean() >= 0.999
