import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import DataLoader, Dataset, MetaTensor, PersistentDataset
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged, Orientationd, Randomizable, Spacingd
from PIL import Image

from pipeline.errors import InputError
from pipeline.transforms.load_image import StrictLoadImaged

LAS = np.array([[-1.5, 0, 0, 10], [0, 2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]])
VOXELS = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


def nifti(file, voxels=VOXELS, affine=LAS):
    nib.save(nib.Nifti1Image(voxels, affine, dtype=voxels.dtype), file)
    return str(file)


@pytest.fixture
def record(tmp_path):
    return {
        "id": "case_1",
        "image": nifti(tmp_path / "image.nii.gz"),
        "label": nifti(tmp_path / "label.nii.gz", (VOXELS % 3).astype(np.uint8)),
    }


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI builds every reader of its own
def test_the_result_is_that_of_monai(record):
    ours = StrictLoadImaged(("image", "label"), spatial_dims=3)(record)
    theirs = Compose([LoadImaged(("image", "label")), EnsureChannelFirstd(("image", "label"))])(record)
    for key, dtype in (("image", torch.float32), ("label", torch.int32)):
        assert isinstance(ours[key], MetaTensor)
        assert (ours[key].dtype, ours[key].shape) == (dtype, (1, 4, 5, 6))
        assert ours[key].is_contiguous()
        torch.testing.assert_close(ours[key].as_tensor(), theirs[key].as_tensor().to(dtype))
        torch.testing.assert_close(ours[key].affine, theirs[key].affine)
        torch.testing.assert_close(ours[key].meta["original_affine"], torch.tensor(LAS))
        assert ours[key].affine.dtype == torch.float64
        for name in ("filename_or_obj", "space", "original_channel_dim"):
            assert ours[key].meta[name] == (theirs[key].meta[name] if name != "original_channel_dim" else 0)
        np.testing.assert_array_equal(ours[key].meta["spatial_shape"], (4, 5, 6))
    assert ours["id"] == "case_1"
    assert isinstance(record["image"], str)  # the record itself is untouched


def test_other_programs_see_a_loader_that_is_deterministic_and_light(record):
    loader = StrictLoadImaged("image", spatial_dims=3)
    assert not isinstance(loader, LoadImaged | Randomizable)  # MONAI Label would replace the one
    copy = pickle.loads(pickle.dumps(loader))
    torch.testing.assert_close(copy(record)["image"], loader(record)["image"])
    assert len(pickle.dumps(loader)) < 500


@pytest.mark.parametrize(
    ("number", "dtype"),
    [(2**24 + 1, torch.int32), (2**31 - 1, torch.int32), (2**31, torch.int64), (2**53 + 1, torch.int64)],
)
def test_instance_numbers_are_exact(tmp_path, number, dtype):
    labels = np.zeros((4, 5, 6), np.int64)
    labels[1, 2, 3], labels[1, 2, 4] = number, number - 1
    record = {"label": nifti(tmp_path / "label.nii.gz", labels)}
    label = StrictLoadImaged("label", spatial_dims=3)(record)["label"]
    assert label.dtype == dtype
    assert label[0, 1, 2, 3:5].tolist() == [number, number - 1]


def test_numbers_beyond_int64(tmp_path):
    record = {"label": nifti(tmp_path / "label.nii.gz", np.full((2, 2, 2), 2**63, np.uint64))}
    with pytest.raises(InputError, match="label 9223372036854775808 exceeds"):
        StrictLoadImaged("label", spatial_dims=3)(record)


def test_which_keys_are_labels(tmp_path):
    Image.fromarray(np.array([[0, 300], [70, 2]], np.uint16)).save(tmp_path / "a.png")
    file = str(tmp_path / "a.png")
    loaded = StrictLoadImaged(("image", "mask"), 2, label_keys="mask")({"image": file, "mask": file})
    assert (loaded["image"].dtype, loaded["mask"].dtype) == (torch.float32, torch.int32)
    assert loaded["image"].tolist() == [[[0, 300], [70, 2]]]  # (row, column)
    assert loaded["mask"].tolist() == [[[0, 300], [70, 2]]]


def test_a_list_of_files_becomes_channels(tmp_path):
    files = [nifti(tmp_path / "t1.nii"), nifti(tmp_path / "t2.nii", VOXELS + 1000)]
    image = StrictLoadImaged("image", 3)({"image": files})["image"]
    assert image.shape == (2, 4, 5, 6)
    torch.testing.assert_close(image[1].as_tensor() - image[0].as_tensor(), torch.full((4, 5, 6), 1000.0))
    assert image.meta["filename_or_obj"] == files[0]


def test_channels_on_different_grids(tmp_path):
    moved = LAS.copy()
    moved[0, 3] += 0.5
    first = nifti(tmp_path / "t1.nii")
    for name, other in {"moved": {"affine": moved}, "cut": {"voxels": VOXELS[:3]}}.items():
        record = {"id": "case_1", "image": [first, nifti(tmp_path / f"{name}.nii", **other)]}
        with pytest.raises(
            InputError, match=rf"case 'case_1', file '.*{name}\.nii': lies on another grid than '.*t1\.nii'"
        ):
            StrictLoadImaged("image", 3)(record)


def test_rounded_headers_lie_on_one_grid(tmp_path):
    """A stage at 20 mm and voxels of 0.3 micrometres: float32 rounds the origin by 0.3 % of a voxel."""
    exact = np.diag([3e-4, 3e-4, 3e-4, 1])
    exact[:3, 3] = 19.1234567, 12.7654321, 15.1111111
    image = sitk.GetImageFromArray(VOXELS.T)
    image.SetSpacing([3e-4] * 3)
    image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])  # LPS: as `exact` says in RAS
    image.SetOrigin([-exact[0, 3], -exact[1, 3], exact[2, 3]])
    sitk.WriteImage(image, str(tmp_path / "t1.nrrd"))
    files = [str(tmp_path / "t1.nrrd"), nifti(tmp_path / "t2.nii", affine=exact)]
    assert StrictLoadImaged("image", 3)({"image": files})["image"].shape == (2, 4, 5, 6)


def test_a_label_map_is_one_file(tmp_path):
    record = {"label": [nifti(tmp_path / "a.nii"), nifti(tmp_path / "b.nii")]}
    with pytest.raises(InputError, match="a label map has one file"):
        StrictLoadImaged("label", 3)(record)


def test_intensities_that_float32_cannot_hold(tmp_path):
    record = {"id": "case_1", "image": nifti(tmp_path / "a.nii", VOXELS * 1e300)}
    with pytest.raises(InputError, match=r"case 'case_1'.*beyond the range of float32"):
        StrictLoadImaged("image", 3)(record)


def test_missing_keys(record):
    del record["label"]
    with pytest.raises(KeyError, match="label"):
        StrictLoadImaged(("image", "label"), 3)(record)
    assert set(StrictLoadImaged(("image", "label"), 3, allow_missing_keys=True)(record)) == {"id", "image"}


def test_a_damaged_file_is_named_also_from_a_worker(record):
    whole = Path(record["image"]).read_bytes()
    Path(record["image"]).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"case 'case_1', file '.*image\.nii\.gz': cannot be read .* Remedy"):
        StrictLoadImaged("image", 3)(record)
    loader = DataLoader(Dataset([record], StrictLoadImaged("image", 3)), num_workers=1)
    with pytest.raises(RuntimeError, match=r"case 'case_1', file '.*image\.nii\.gz': cannot be read .* Remedy"):
        next(iter(loader))


def test_batches_and_a_cache_on_disk(record, tmp_path):
    options = {"cache_dir": tmp_path / "cache", "track_meta": True, "weights_only": False}
    data = PersistentDataset([record] * 2, StrictLoadImaged(("image", "label"), 3), **options)
    for _ in range(2):  # written, then read
        batch = next(iter(DataLoader(data, batch_size=2)))
        assert batch["image"].shape == batch["label"].shape == (2, 1, 4, 5, 6)
        assert batch["label"].dtype == torch.int32
        assert batch["image"].meta["filename_or_obj"] == [record["image"]] * 2


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 5)])
def test_monai_resamples_and_inverts_by_the_meta_data(tmp_path, shape):
    voxels = np.zeros(shape, np.uint8)
    voxels[2:6, 1:5] = 1
    record = {"image": nifti(tmp_path / "a.nii.gz", voxels)}
    dims = len(shape)
    turn = [Orientationd("image", "RAS", labels=None)] if dims == 3 else []
    spacing = Spacingd("image", [0.75, 1.0, 1.5][:dims], mode="nearest")
    transform = Compose([StrictLoadImaged("image", dims), *turn, spacing])
    data = transform(record)
    assert data["image"].shape[1:] == tuple(2 * n - 1 for n in shape)
    data["pred"] = data["image"].clone()
    back = Invertd("pred", transform, "image", nearest_interp=True)(data)["pred"]
    np.testing.assert_array_equal(back[0].numpy(), voxels)
    torch.testing.assert_close(back.affine[0, 0], torch.tensor(-1.5, dtype=torch.float64))
