"""A folder in, a folder out: with the inputs' names and geometry, in every format."""

import json
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import tifffile
from discs import draw_discs
from PIL import Image

from pipeline.errors import InputError


@pytest.fixture
def predict(run_bundle, trained, tmp_path):
    def call(input_dir, **overrides):
        options = {"input_dir": str(input_dir), "output_dir": str(tmp_path / "out"), "device": "cpu", **overrides}
        run_bundle("inference", trained / "configs" / "inference.json", **options)
        return tmp_path / "out"

    return call


@pytest.fixture
def one_image_in_all_formats(tmp_path):
    """The same picture as PNG, TIFF and NIfTI, in folders of their own, and an oblique affine for the last."""
    image, _ = draw_discs(3)
    folder = tmp_path / "in"
    (folder / "slide 1").mkdir(parents=True)
    (folder / "slide 2").mkdir()
    Image.fromarray(image).save(folder / "slide 1" / "a.png")
    tifffile.imwrite(folder / "slide 1" / "b.tiff", image)
    tifffile.imwrite(folder / "slide 2" / "a.tif", image)
    affine = np.array([[0.0, -0.3, 0, 5], [0.4, 0, 0, -7], [0, 0, 2, 1], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(image[..., None], affine), folder / "slide 2" / "a.nii.gz")
    return folder


def test_names_and_geometry_are_those_of_the_inputs(predict, one_image_in_all_formats):
    out = predict(one_image_in_all_formats)
    files = [file.relative_to(out) for file in out.rglob("*") if file.is_file()]
    written = {str(file) for file in files if file.parts[0] != ".completed"}
    # Two inputs called "a" in one folder: their suffix is part of the case's id.
    images = {"slide 1/a.png", "slide 1/b.tiff", "slide 2/a.tif.tif", "slide 2/a.nii.gz.nii.gz"}
    assert written == images | {"summary.csv", "summary.json"}
    labels = {
        "png": np.asarray(Image.open(out / "slide 1/a.png")),
        "tiff": tifffile.imread(out / "slide 1/b.tiff"),
        "tif": tifffile.imread(out / "slide 2/a.tif.tif"),
        "nifti": np.asarray(nib.load(out / "slide 2/a.nii.gz.nii.gz").dataobj)[..., 0],
    }
    for label in labels.values():
        assert label.dtype == np.uint8
        np.testing.assert_array_equal(label, labels["png"])
    assert 0 < labels["png"].mean() < 1
    before, after = nib.load(one_image_in_all_formats / "slide 2/a.nii.gz"), nib.load(out / "slide 2/a.nii.gz.nii.gz")
    np.testing.assert_array_equal(after.affine, before.affine)
    assert after.shape == before.shape


def test_probabilities_on_request(predict, one_image_in_all_formats):
    out = predict(one_image_in_all_formats, save_probabilities=True)
    probabilities = tifffile.imread(out / "slide 2" / "a.tif_prob.tif")
    assert probabilities.dtype == np.float32
    assert probabilities.shape[0] == 2
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(axis=0), tifffile.imread(out / "slide 2" / "a.tif.tif"))


def test_a_bad_image_is_reported_and_stops_no_other(predict, discs, tmp_path):
    shutil.copytree(discs / "images", tmp_path / "in")
    damaged = tmp_path / "in" / "disc_3.tif"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"(?s)1 of 8 images were not predicted.*disc_3\.tif.*Remedy"):
        predict(tmp_path / "in")
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())
    (reason,) = (row["reason"] for row in rows if row["status"] != "done")
    assert "Remedy: " in reason
    assert " object at 0x" not in reason
    assert {row["case"]: row["status"] for row in rows if row["status"] != "done"} == {"disc_3": "failed"}
    assert len(list((tmp_path / "out").glob("*.tif"))) == 7


@pytest.mark.parametrize(("folder", "message"), [("nowhere", "does not exist"), ("empty", "holds no image of 2D")])
def test_no_input_is_an_error(predict, tmp_path, folder, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        predict(tmp_path / folder)


def test_an_image_of_other_channels_is_named(predict, tmp_path):
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "rgb.tif", np.zeros((48, 48, 3), np.uint8), photometric="rgb")
    with pytest.raises(InputError, match=r"case 'rgb', file '.*rgb\.tif': the image has 3 channels, .* on 1"):
        predict(tmp_path / "in")


def test_results_never_go_among_the_inputs(run_bundle, trained, discs, tmp_path):
    folder = shutil.copytree(discs / "images", tmp_path / "in")
    options = {"input_dir": str(folder), "output_dir": str(tmp_path / "." / "in"), "device": "cpu"}
    with pytest.raises(InputError, match="the output folder is the input folder"):
        run_bundle("inference", trained / "configs" / "inference.json", **options)
    assert len(list(folder.iterdir())) == 8


def test_without_weights_the_error_says_what_to_do(run_bundle, discs, tmp_path):
    with pytest.raises(InputError, match=r"there are no trained weights.*train first"):
        run_bundle("inference", "inference.json", bundle_root=str(tmp_path), input_dir=str(discs / "images"))


def test_an_unknown_override_is_an_error_here_too(predict, discs):
    with pytest.raises(InputError, match=r"unknown setting 'inputdir'. Remedy: did you mean input_dir"):
        predict(discs / "images", inputdir="x")


def test_the_short_command_does_the_same(predict, trained, discs, tmp_path):
    out = predict(discs / "images")
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "predict",
        str(trained),
        str(discs / "images"),
        str(tmp_path / "short"),
    ]
    result = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for file in out.glob("*.tif"):
        assert (tmp_path / "short" / file.name).read_bytes() == file.read_bytes()
    damaged = subprocess.run([*command[:4], str(discs), *command[5:]], capture_output=True, text=True, check=False)
    assert damaged.returncode == 1
    assert damaged.stderr.strip().startswith("error: ")
    assert "this folder is no bundle" in damaged.stderr
