"""Label maps made slab by slab are those of the whole image at once."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer
from monai.transforms import Compose, KeepLargestConnectedComponentd
from monai.utils import MetaKeys
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.errors import InputError
from pipeline.inferers.averaged import AveragedInferer
from pipeline.inferers.overlap_tile import OverlapTileInferer
from pipeline.inferers.sliding_window import SlidingWindow
from pipeline.label_slabs import predict_labels, split_voxelwise
from pipeline.networks.unet import UNet
from pipeline.transforms.classes_from_logits import ClassesFromLogitsd
from pipeline.transforms.regions import LabelsFromRegionsd
from pipeline.transforms.to_grid import FromGridd, ToGridd

WINDOW = SlidingWindow(roi_size=8, sw_batch_size=3, overlap=0.5, mode="gaussian")
AFFINE = np.array([[0, 0, -1.2, 5], [2.0, 0, 0, -7], [0, -0.9, 0, 11], [0, 0, 0, 1]])  # axes AIL
BACK = FromGridd(["pred", "uncertainty"], allow_missing_keys=True)


@pytest.fixture
def volume():
    """A file of 12 x 21 x 25 voxels, converted to RAS and 1.5 mm."""
    voxels = torch.randn(1, 12, 21, 25, generator=torch.Generator().manual_seed(0))
    meta = {
        MetaKeys.ORIGINAL_AFFINE: torch.from_numpy(AFFINE),
        MetaKeys.SPATIAL_SHAPE: np.array([12, 21, 25]),
        "filename_or_obj": "a.nii.gz",
    }
    file = MetaTensor(voxels, affine=torch.from_numpy(AFFINE), meta=meta)
    return ToGridd("image", spacing=1.5)({"image": file, "id": "a"})


def network(classes=3):
    torch.manual_seed(0)
    return torch.nn.Conv3d(1, classes, 3, padding=1).requires_grad_(False)


def whole(item, network, inferer, transforms, uncertainty=False):
    """The same without slabs, as a training validates."""
    image = item["image"]
    found = (inferer.predict_with_spread if uncertainty else inferer)(image.as_tensor()[None], network)
    logits, spread = found if uncertainty else (found, None)
    data = {"image": image, "pred": MetaTensor(logits[0], meta=image.meta)}
    if spread is not None:
        data["uncertainty"] = spread[0].amax(0, keepdim=True)
    return Compose(transforms)(data)


@pytest.mark.parametrize(
    "inferer",
    [
        pytest.param(WINDOW, id="windows"),
        pytest.param(SimpleInferer(), id="one slab"),
        pytest.param(AveragedInferer(WINDOW, "mirrors"), id="mirrors"),
    ],
)
@pytest.mark.parametrize(
    ("classes", "last"),
    [
        (3, ClassesFromLogitsd("pred")),
        (1, ClassesFromLogitsd("pred")),
        (2, LabelsFromRegionsd("pred", {"all": [1, 2], "core": [2]})),
    ],
)
def test_labels_are_those_of_the_whole_image(volume, inferer, classes, last):
    if isinstance(inferer, AveragedInferer):
        inferer = AveragedInferer(WINDOW, "mirrors", "sigmoid" if isinstance(last, LabelsFromRegionsd) else None)
    expected = whole(volume, network(classes), inferer, [BACK, last])
    result = predict_labels(volume, network(classes), inferer, [BACK, last], "cpu")
    assert torch.equal(result["pred"].as_tensor(), expected["pred"].as_tensor())
    assert len(result["pred"].unique()) == max(classes, 2) + isinstance(last, LabelsFromRegionsd)
    assert result["pred"].shape == (1, 12, 21, 25)
    assert result["pred"].dtype == torch.uint8
    np.testing.assert_allclose(result["pred"].affine, AFFINE)
    assert result["pred"].meta["filename_or_obj"] == "a.nii.gz"
    assert result.keys() == {"image", "id", "pred"}


def test_probabilities_and_uncertainty_on_request(volume):
    inferer = AveragedInferer(WINDOW, "mirrors")
    transforms = [BACK, ClassesFromLogitsd("pred")]
    expected = whole(volume, network(), inferer, transforms, uncertainty=True)
    result = predict_labels(volume, network(), inferer, transforms, "cpu", keep_probabilities=True, uncertainty=True)
    assert result.keys() == {"image", "id", "pred", "probabilities", "uncertainty"}
    assert torch.equal(result["pred"].as_tensor(), expected["pred"].as_tensor())
    for key, channels in (("probabilities", 3), ("uncertainty", 1)):
        torch.testing.assert_close(result[key].as_tensor(), expected[key].as_tensor(), rtol=1e-5, atol=1e-6)
        assert result[key].shape == (channels, 12, 21, 25)
        np.testing.assert_allclose(result[key].affine, AFFINE)
    assert result["uncertainty"].max() > 0.01


def test_pictures_have_no_grid():
    torch.manual_seed(0)
    image = MetaTensor(torch.randn(1, 45, 31), meta={"filename_or_obj": "a.png"})
    valid = UNet(channels=(2, 3), padding="valid", out_channels=2).eval()
    for inferer, net in ((OverlapTileInferer(10), valid), (WINDOW, torch.nn.Conv2d(1, 2, 3, padding=1))):
        with torch.no_grad():
            expected = inferer(image.as_tensor()[None], net)[0].argmax(0, keepdim=True)
        result = predict_labels({"image": image}, net, inferer, [ClassesFromLogitsd("pred")], "cpu")
        assert torch.equal(result["pred"].as_tensor(), expected.to(torch.uint8))
        assert result["pred"].meta["filename_or_obj"] == "a.png"
        assert not result["pred"].requires_grad


def test_without_voxelwise_transforms_the_logits_stay(volume):
    for transforms in ([], [BACK]):
        expected = whole(volume, network(), WINDOW, transforms)["pred"].as_tensor()
        result = predict_labels(volume, network(), WINDOW, transforms, "cpu")["pred"].as_tensor()
        assert torch.equal(result, expected)


def test_transforms_that_need_the_whole_image_come_after():
    classes, largest = ClassesFromLogitsd("pred"), KeepLargestConnectedComponentd("pred")
    assert split_voxelwise([BACK, classes, largest, classes]) == ([BACK, classes], [largest, classes])
    assert split_voxelwise(Compose([Compose([BACK, classes]), largest])) == ([BACK, classes], [largest])
    assert split_voxelwise([classes, BACK]) == ([classes], [BACK])
    assert split_voxelwise([largest]) == ([], [largest])
    assert split_voxelwise([]) == ([], [])
    with pytest.raises(InputError, match="KeepLargestConnectedComponentd needs the whole image"):
        predict_labels({"image": None}, None, None, [classes, largest], "cpu")


def test_memory_that_does_not_suffice_is_a_clear_error(volume):
    class Full:
        voxelwise = True

        def __call__(self, data):
            raise torch.OutOfMemoryError("no room for probabilities")

    with pytest.raises(InputError, match=r"memory does not suffice.*no room for probabilities.*--device cpu"):
        predict_labels(volume, network(), WINDOW, [BACK, Full()], "cpu")


def test_the_transforms_themselves_stay_as_they_are(volume):
    classes = ClassesFromLogitsd("pred")
    predict_labels(volume, network(), WINDOW, [BACK, classes], "cpu")
    assert classes.probabilities_keys == ("probabilities",)


class Counted(TorchDispatchMode):
    """Keeps the bytes of the largest tensor that is made, other than one and than labels."""

    def __init__(self, image):
        super().__init__()
        self.image, self.largest = image.untyped_storage().data_ptr(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.dtype != torch.uint8:
                storage = tensor.untyped_storage()
                self.largest = max(self.largest, storage.nbytes() if storage.data_ptr() != self.image else 0)
        return result


@pytest.mark.parametrize("inferer", [WINDOW, AveragedInferer(WINDOW, "mirrors")], ids=["windows", "mirrors"])
def test_no_tensor_but_image_and_labels_grows_with_the_image(inferer):
    found = []
    for height in (200, 400):
        affine = np.diag([2.0, 1.0, 1.0, 1.0])
        meta = {MetaKeys.ORIGINAL_AFFINE: torch.from_numpy(affine), MetaKeys.SPATIAL_SHAPE: np.array([height, 8, 7])}
        file = MetaTensor(torch.zeros(1, height, 8, 7), affine=torch.from_numpy(affine), meta=meta)
        item = ToGridd("image", spacing=(2.5, 1.1, 1.0))({"image": file})
        with Counted(item["image"]) as counted:
            predict_labels(item, network(4), inferer, [BACK, ClassesFromLogitsd("pred")], "cpu")
        found.append(counted.largest)
    plane = 4 * 4 * 8 * 7
    assert found[0] == found[1] < 25 * plane
