"""On a GPU that is nearly full: the prediction is the same, and comes. Skipped where there is none."""

import gc

import pytest
import torch
from monai.data import MetaTensor

from pipeline.errors import InputError
from pipeline.inferers.sliding_window import SlidingWindow
from pipeline.label_slabs import predict_labels
from pipeline.networks.unet import UNet
from pipeline.transforms.classes_from_logits import ClassesFromLogitsd

pytestmark = pytest.mark.gpu
MIB = 1 << 20
CLASSES = [ClassesFromLogitsd("pred")]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """TF32, and another algorithm for each size of a batch, would blur the comparison."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)


@pytest.fixture
def limit():
    """Return `limit(mebibytes)`, which lets this process allocate so much more and no more."""

    def set_limit(mebibytes):
        gc.collect()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + mebibytes * MIB) / total)

    yield set_limit
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.fixture
def network():
    torch.manual_seed(0)
    return UNet(spatial_dims=3, channels=(16, 32), out_channels=8, norm="instance").eval().cuda()


def windows(**options):
    return SlidingWindow(**{"roi_size": (48, 48, 48), "overlap": 0.5, "mode": "gaussian", **options})


@pytest.fixture
def item():
    return {"image": MetaTensor(torch.randn(1, 160, 96, 96, generator=torch.Generator().manual_seed(0)))}


def agreement(one, other):
    return (one["pred"].as_tensor() == other["pred"].as_tensor()).float().mean()


def test_fewer_windows_at_once_give_the_same(network, item, limit, caplog):
    expected = predict_labels(item, network, windows(sw_batch_size=1), CLASSES, "cuda")
    assert not caplog.records
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.no_grad():
        network(torch.zeros(4, 1, 48, 48, 48, device="cuda"))
    four_windows = (torch.cuda.max_memory_allocated() - before) // MIB
    limit(int(1.2 * four_windows) + 100)  # 100 for the sums of 72 planes, which take 20, and what is made of them
    result = predict_labels(item, network, windows(sw_batch_size=32), CLASSES, "cuda")
    assert "windows at once instead of 32" in caplog.text
    assert agreement(result, expected) >= 0.999
    assert result["pred"].device.type == "cpu"


@pytest.mark.parametrize("room", [1, 16])
def test_what_cannot_fit_says_so(network, item, limit, room):
    """The image alone takes 6 MiB, a window's first features 7."""
    limit(room)
    with pytest.raises(InputError, match=r"memory does not suffice.*--device cpu"):
        predict_labels(item, network, windows(sw_batch_size=4), CLASSES, "cuda")


def test_the_memory_of_the_gpu_does_not_grow_with_the_image(network):
    peaks = []
    for height in (384, 768):
        item = {"image": MetaTensor(torch.zeros(1, height, 48, 48))}
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        predict_labels(item, network, windows(sw_batch_size=2), CLASSES, "cuda")
        peaks.append(torch.cuda.max_memory_allocated() - item["image"].numel() * 4)
    assert peaks[1] == pytest.approx(peaks[0], rel=0.02)
