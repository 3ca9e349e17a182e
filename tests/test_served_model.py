"""A bundle behind MLflow's interface gives what `python -m pipeline predict` gives, of files and of arrays."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from discs import ROOT, draw_discs
from mlflow.pyfunc import PythonModelContext
from scipy.ndimage import label

from pipeline.errors import InputError
from pipeline.inference import predict_with_bundle
from pipeline.served_model import ServedModel

UNET3D = ROOT / "bundles" / "unet3d"


def loaded(bundle):
    model = ServedModel()
    model.load_context(PythonModelContext({"bundle": str(bundle)}, None))
    return lambda given, **params: model.predict(None, given, params or None)


@pytest.fixture(scope="module")
def served(trained):
    return loaded(trained)


@pytest.fixture(scope="module")
def expected(trained, discs, tmp_path_factory):
    """What `python -m pipeline predict` makes of the discs, by the file's stem."""
    out = tmp_path_factory.mktemp("expected")
    predict_with_bundle(trained, str(discs / "images"), str(out), device="cpu")
    found = {file.stem: tifffile.imread(file) for file in out.glob("*.tif")}
    assert len(found) == 8
    assert all(0 < labels.mean() < 1 for labels in found.values())
    return found


def image_of(discs, number):
    return discs / "images" / f"disc_{number}.tif"


def test_a_path_gives_the_labels_of_predict(served, expected, discs):
    for given in (str(image_of(discs, 0)), image_of(discs, 0)):
        labels = served(given)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, expected["disc_0"])


@pytest.mark.parametrize(
    "several",
    [list, lambda paths: pd.DataFrame({"number": [1, 0], "path": paths}), np.array],
    ids=["list", "table", "array"],
)
def test_several_paths_give_a_list_in_their_order(served, expected, discs, several):
    labels = served(several([str(image_of(discs, 3)), str(image_of(discs, 1))]))
    assert isinstance(labels, list)
    np.testing.assert_array_equal(labels, [expected["disc_3"], expected["disc_1"]])


def test_with_a_folder_label_maps_are_written_and_named(served, expected, discs, tmp_path):
    files = served([str(image_of(discs, 2)), str(image_of(discs, 4))], output_dir=str(tmp_path / "out"))
    assert files == [str(tmp_path / "out" / "disc_2.tif"), str(tmp_path / "out" / "disc_4.tif")]
    for file in files:
        np.testing.assert_array_equal(tifffile.imread(file), expected[Path(file).stem])
    assert served(str(image_of(discs, 2)), output_dir=str(tmp_path / "b")) == str(tmp_path / "b" / "disc_2.tif")


def test_arrays_give_the_labels_of_their_files(served, expected, discs):
    first, second = (tifffile.imread(image_of(discs, number)) for number in (0, 1))
    one, two = expected["disc_0"], expected["disc_1"]
    np.testing.assert_array_equal(served(first), one)
    np.testing.assert_array_equal(served(first[None]), one)
    np.testing.assert_array_equal(served(np.stack([first, second])[:, None]), [one, two])
    np.testing.assert_array_equal(served(first.astype(float).tolist()), one)  # as JSON brings it


def test_an_array_may_have_any_size(served):
    image = draw_discs(5, size=71)[0][:50]
    assert served(image).shape == (50, 71)
    assert served(image[None, None]).shape == (1, 50, 71)
    np.testing.assert_array_equal(served(image[::-1]), served(image[::-1].copy()))


def test_what_was_given_is_not_changed(served):
    image = draw_discs(5)[0].astype(np.float32)
    before = image.copy()
    served(image)
    np.testing.assert_array_equal(image, before)


def test_steps_that_need_the_whole_image_are_taken_too(trained, discs, tmp_path):
    bundle = shutil.copytree(trained, tmp_path / "bundle")
    file = bundle / "configs" / "inference.json"
    config = json.loads(file.read_text())
    largest = {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [1]}
    config["postprocessing"]["transforms"].append(largest)
    file.write_text(json.dumps(config))
    every, kept = (loaded(folder)(str(image_of(discs, 0))) for folder in (trained, bundle))
    pieces, count = label(every, np.ones((3, 3)))
    assert count > 1
    np.testing.assert_array_equal(kept, pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:]))


# --- volumes ----------------------------------------------------------------------------------------------------------


def scan(folder, affine, shape=(40, 36, 12)):
    """A file with a bright ball off its middle, and its voxels."""
    random = np.random.default_rng(0)
    radii = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - np.array([14, 20, 5]), axis=-1)
    voxels = (radii < 9) * 120 + random.normal(0, 10, shape)
    nib.save(nib.Nifti1Image(voxels.astype(np.float32), affine), folder / "scan.nii.gz")
    return folder / "scan.nii.gz", voxels.astype(np.float32)


def predicted3d(file, out, bundle=UNET3D):
    predict_with_bundle(bundle, str(file), str(out), device="cpu")
    labels = np.asarray(nib.load(out / "scan.nii.gz").dataobj)
    assert 0 < (labels > 0).mean() < 1
    return labels


# Where the first, second and third axis of the array point, in columns, with 1, 1 and 3 mm as unet3d has them.
GRIDS = {
    "RAS": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]],
    "LPS": [[-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]],
    "PSR": [[0, 0, 3, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]],
}


@pytest.mark.parametrize("axcodes", GRIDS)
def test_an_array_lies_on_the_networks_grid(axcodes, tmp_path):
    bundle = shutil.copytree(UNET3D, tmp_path / "bundle")
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    (bundle / "configs" / "inference.json").write_text(json.dumps({**config, "axcodes": axcodes}))
    file, voxels = scan(tmp_path, np.array(GRIDS[axcodes], float))
    expected = predicted3d(file, tmp_path / "out", bundle)
    np.testing.assert_array_equal(loaded(bundle)(voxels), expected)


def test_a_file_on_another_grid_keeps_it(tmp_path):
    served3d = loaded(UNET3D)
    file, _ = scan(tmp_path, np.diag([-1.5, -1.5, 2, 1]))
    expected = predicted3d(file, tmp_path / "out")
    np.testing.assert_array_equal(served3d(str(file)), expected)
    written = served3d(str(file), output_dir=str(tmp_path / "written"))
    np.testing.assert_array_equal(np.asarray(nib.load(written).dataobj), expected)
    np.testing.assert_array_equal(nib.load(written).affine, nib.load(file).affine)


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_what_is_no_image_of_this_network_is_refused(served):
    image = draw_discs(0)[0].astype(np.float32)
    for given, words in (
        (image[0], r"shape \[48\]"),
        (image[None, None, None], r"shape \[1, 1, 1, 48, 48\]"),
        (image[:0], r"shape \[0, 48\]"),
        (np.stack([image, image]), "2 channels, and the network was trained on 1"),
        (np.where(image > image.mean(), np.nan, image), "not finite"),
        (image.astype(float) * 1e300, "not finite"),
        ([[1, 2], [3]], "neither an array nor paths"),
        ([["a"], 3], "neither an array nor paths"),
        ({"image": 3}, "neither an array nor paths"),
        (pd.DataFrame({"file": ["x"]}), "no column 'path'"),
        ("nowhere.tif", "does not exist"),
    ):
        with pytest.raises(InputError, match=words):
            served(given)


def test_files_that_cannot_be_told_apart_are_refused(served, discs, tmp_path):
    shutil.copyfile(image_of(discs, 0), tmp_path / "disc_0.tif")
    same = [str(image_of(discs, 0)), str(tmp_path / "disc_0.tif")]
    with pytest.raises(InputError, match="case 'disc_0': two inputs would be written under this name"):
        served(same, output_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert len(served(same)) == 2
    with pytest.raises(InputError, match="holds 8 images"):
        served(str(discs / "images"))


def test_a_damaged_file_is_named(served, tmp_path):
    (tmp_path / "bad.tif").write_bytes(b"this is no TIFF")
    with pytest.raises(InputError, match=f"case 'bad', file '{tmp_path}/bad.tif'"):
        served(str(tmp_path / "bad.tif"))


def test_an_array_has_no_file_to_be_written_to(served, tmp_path):
    with pytest.raises(InputError, match="an array has no name"):
        served(draw_discs(0)[0], output_dir=str(tmp_path / "out"))


class Harm:
    """What a pickle can do when it is loaded."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_weights_that_are_more_than_tensors_are_not_loaded(trained, tmp_path):
    bundle = shutil.copytree(trained, tmp_path / "bundle")
    torch.save({"weight": Harm(tmp_path / "harmed")}, bundle / "models" / "model.pt")
    with pytest.raises(InputError, match="holds more than tensors"):
        loaded(bundle)
    assert not (tmp_path / "harmed").exists()


def test_a_folder_without_weights_is_no_model(trained, tmp_path):
    bundle = shutil.copytree(trained, tmp_path / "bundle")
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(InputError, match="no trained weights"):
        loaded(bundle)
