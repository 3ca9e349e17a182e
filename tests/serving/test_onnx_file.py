import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from pipeline.errors import InputError
from pipeline.networks.unet import UNet
from pipeline.serving.onnx_file import write_onnx


def session_of(file):
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


@torch.no_grad()
def test_one_file_serves_any_number_of_images_of_any_size(tmp_path):
    network = UNet(2, 3, 4, (4, 8), norm="batch", attention="global", upsample="linear").eval()
    session = session_of(write_onnx(network, tmp_path / "model.onnx", "colours", "classes"))
    assert [(part.name, part.type, part.shape[1]) for part in (*session.get_inputs(), *session.get_outputs())] == [
        ("colours", "tensor(float)", 3),
        ("classes", "tensor(float)", 4),
    ]
    for shape in [(1, 3, 8, 8), (2, 3, 12, 20), (5, 3, 13, 17), (1, 3, 31, 9)]:
        images = torch.randn(shape)
        (found,) = session.run(["classes"], {"colours": images.numpy()})
        np.testing.assert_allclose(found, network(images).numpy(), rtol=1e-3, atol=1e-4)


class OneSize(nn.Module):
    def forward(self, x):
        return x + torch.arange(48.0)


class NotInOnnx(nn.Module):
    def forward(self, x):
        return torch.linalg.lstsq(x, x).solution


@pytest.mark.parametrize(
    ("network", "words", "remedy"),
    [
        (UNet(2, 1, 2, (2, 4), padding="valid"), "images of one size only", "torchscript"),
        (NotInOnnx(), "cannot compute this network", "torchscript"),
        (OneSize(), "the network itself fails on", "mlflow models serve"),
    ],
)
def test_what_onnx_cannot_express_is_refused(network, words, remedy, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        write_onnx(network.eval(), tmp_path / "model.onnx")
    assert remedy in caught.value.remedy
    assert not list(tmp_path.iterdir())
