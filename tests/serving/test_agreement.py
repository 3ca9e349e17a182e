import pytest
from torch import nn

from pipeline.errors import InputError
from pipeline.networks.unet import UNet
from pipeline.serving.agreement import check_agreement, example


def test_examples_are_of_sizes_that_the_network_takes():
    same = UNet(2, 3, 2, (4, 8, 16))
    assert example(same).shape == (2, 3, 12, 12)  # 3 times 4
    assert example(same, batch=1, multiple=4, more=1).shape == (1, 3, 17, 17)
    valid = UNet(3, 1, 2, (2, 4), padding="valid", strides=((1, 2, 2),))
    assert valid.output_size(example(valid, more=1).shape[2:])  # else it raises
    assert example(nn.Conv3d(1, 1, 1)).shape == (2, 1, 48, 48, 48)


def test_an_export_that_agrees_passes():
    network = UNet(2, 1, 2, (4, 8)).eval()
    check_agreement(network, network, "onnx")
    check_agreement(network, lambda x: network(x) + 1e-5, "onnx")


def fails(_):
    raise RuntimeError("no such\nsize")


@pytest.mark.parametrize(
    ("exported", "words"),
    [
        (lambda x: x * 2.01, "differs by"),
        (lambda x: x * float("nan"), "differs by"),
        (lambda x: x[:1], r"gives \(1, 1, 48, 48\) in place of \(2, 1, 48, 48\)"),
        (lambda x: x[..., :48, :48] * 2, "in place of"),  # of a fixed size: found with the second batch
        (fails, "onnx cannot compute this network: what was exported fails on .* no such size"),
    ],
)
def test_an_export_that_differs_is_refused(exported, words):
    network = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(network.weight, 2)
    with pytest.raises(InputError, match=words):
        check_agreement(network, exported, "onnx")


def test_a_network_of_one_size_is_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(48 * 48, 2), nn.Unflatten(1, (2, 1, 1)))
    network.append(nn.Conv2d(2, 2, 1))
    with pytest.raises(InputError, match="the network itself fails on"):
        check_agreement(network, network, "onnx")
