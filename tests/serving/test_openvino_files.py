import numpy as np
import pytest
import torch
from torch import nn

from pipeline import backends
from pipeline.errors import InputError
from pipeline.serving.openvino_files import write_openvino


@torch.no_grad()
def test_one_pair_of_files_serves_any_number_of_images_of_any_size(bundle, tmp_path):
    openvino = pytest.importorskip("openvino")
    file = write_openvino(bundle.network, tmp_path / "model.xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    model = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for shape in [(1, 1, 32, 40, 8), (3, 1, 21, 33, 17)]:
        images = torch.randn(shape[: 2 + bundle.spatial_dims])
        np.testing.assert_allclose(model(images.numpy())[0], bundle.network(images).numpy(), rtol=1e-3, atol=1e-3)


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(backends, "find_spec", lambda package: None)
    with pytest.raises(InputError, match="needs openvino"):
        write_openvino(nn.Conv2d(1, 1, 1), tmp_path / "model.xml")
