"""Every overlay of bundles/unet3d, alone and with others, trains and leaves a run that predicts on the files' grids."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from blobs import CLASSES, small_training_3d
from discs import ROOT
from ignite.engine import Events
from kinds import UNET3D_KIND, read_nifti
from monai.bundle import ConfigParser
from overlays import names, settings

from pipeline.datalists.check import check_fits
from pipeline.datalists.datalist import load_data_list
from pipeline.errors import InputError
from pipeline.inferers.averaged import AveragedInferer

CONFIGS = UNET3D_KIND.configs
REGIONS = ("regions.yaml", "infer_mirrors.yaml", "opt_nnunet.yaml", "measures_surface.yaml")
COMBINATIONS = [
    *((name,) for name in UNET3D_KIND.overlays),
    REGIONS,
    ("data_hippocampus.yaml", "net_deep_supervision.yaml", "infer_mirrors.yaml", "aug_none.yaml"),
    ("norm_ct.yaml", "loss_ce.yaml", "post_components.yaml"),
]


def predict(run, run_bundle, images, out, **overrides):
    """Predict by the config that the run left, and return the label maps."""
    options = {"input_dir": str(images), "output_dir": str(out), "device": "cpu", **overrides}
    run_bundle("inference", run / "configs" / "inference.json", **options)
    return {file.name: nib.load(out / file.name) for file in sorted(images.glob("*.nii.gz"))}


@pytest.mark.parametrize("overlays", COMBINATIONS, ids=names)
def test_two_steps_of_training_leave_a_run_that_predicts(overlays, train_3d, blobs_of, run_bundle, tmp_path):
    run, images = train_3d(overlays), blobs_of(overlays) / "images"
    maps = predict(run, run_bundle, images, tmp_path / "out")
    assert len(maps) == 8
    classes = settings(*overlays, configs=CONFIGS)["class_names"]
    for name, found in maps.items():
        image = nib.load(images / name)
        assert found.shape == image.shape
        assert np.array_equal(found.affine, image.affine)
        assert set(np.unique(found.dataobj)) <= set(range(len(classes)))


def test_validation_compares_on_the_files_own_grid(train_3d, run_bundle, blobs_of, tmp_path):
    """The scores that the run kept are those of its written label maps against the untouched label files."""
    blobs = blobs_of(())
    run = train_3d((), epochs=4, crops_per_case=4, learning_rate=0.02)
    maps = predict(run, run_bundle, blobs / "images", tmp_path / "out")
    lines = (run / "evaluation" / "validation" / "cases.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    assert [row["case"] for row in rows] == ["blobs_0", "blobs_2", "blobs_4"]
    for row in rows:
        truth = read_nifti(blobs / "labels" / f"{row['case']}.nii.gz")
        found = np.asarray(maps[f"{row['case']}.nii.gz"].dataobj)
        for label, name in enumerate(CLASSES[1:], 1):
            both = np.sum((truth == label) & (found == label))
            expected = 2 * both / (np.sum(truth == label) + np.sum(found == label))
            assert float(row[f"dice/{name}"]) == pytest.approx(expected, abs=1e-6)


def test_a_validation_picture_has_image_truth_and_prediction_on_one_grid(trained_3d, blobs):
    parser = ConfigParser(settings(configs=trained_3d / "configs"))
    parser.update({"bundle_root": str(trained_3d), "dataset_dir": str(blobs), "validate#handlers": []})
    evaluator, seen = parser.get_parsed_content("validate#evaluator"), []
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: seen.extend(engine.state.output))
    evaluator.run()
    for item, name in zip(seen, ("blobs_0", "blobs_2", "blobs_4"), strict=True):  # RAS, PSR, SRA
        image = nib.load(blobs / "images" / f"{name}.nii.gz")
        for key in ("image", "label", "pred"):
            assert item[key].shape == (1, *image.shape), key
        assert np.array_equal(item["label"][0], read_nifti(blobs / "labels" / f"{name}.nii.gz"))
        # Resampled there and back, the picture still shows what the file shows, and not a turned version of it.
        assert np.corrcoef(np.asarray(item["image"]).ravel(), np.asarray(image.dataobj).ravel())[0, 1] > 0.8


def test_several_channels_come_in_one_file_or_in_several(train_3d, blobs_of, run_bundle, tmp_path):
    run, data = train_3d((), in_channels=2), blobs_of((), 2)
    weights = torch.load(run / "models" / "model.pt", weights_only=True)
    assert weights["first.conv1.weight"].shape[1] == 2
    images = tmp_path / "in"
    images.mkdir()
    (images / "blobs_0.nii.gz").symlink_to(data / "images" / "blobs_0.nii.gz")  # one file of four axes
    assert nib.load(images / "blobs_0.nii.gz").ndim == 4
    (found,) = predict(run, run_bundle, images, tmp_path / "out").values()
    assert found.shape == nib.load(data / "labels" / "blobs_0.nii.gz").shape
    with pytest.raises(InputError, match="in_channels is 1, but the data list 'blobs' has 2"):
        train_3d((), in_channels=1, data_list=str(data / "blobs.json"), dataset_dir=str(data))


def test_regions_are_scored_and_written_as_labels(train_3d, blobs_of, run_bundle, tmp_path):
    run = train_3d(REGIONS, epochs=2)
    scores = json.loads((run / "evaluation" / "validation" / "scores.json").read_text())["scores"]
    assert {"mean_dice", "dice/organs", "dice/enhanced", "dice/vessel", "hd95/vessel"} <= scores.keys()
    assert "dice/liver" not in scores
    out = tmp_path / "out"
    maps = predict(run, run_bundle, blobs_of(REGIONS) / "images", out, save_probabilities=True)
    found = np.asarray(maps["blobs_0.nii.gz"].dataobj)
    organs, enhanced, vessel = np.moveaxis(read_nifti(out / "blobs_0_prob.nii.gz"), -1, 0) > 0.5
    assert np.array_equal(found, np.where(vessel, 3, np.where(enhanced, 2, np.where(organs, 1, 0))))


def test_how_sure_it_is_stands_on_the_files_grid_too(train_3d, blobs_of, run_bundle, tmp_path):
    overlays, out = ("infer_mirrors.yaml",), tmp_path / "out"
    run, images = train_3d(overlays), blobs_of(overlays) / "images"
    predict(run, run_bundle, images, out, save_uncertainty=True)
    for file in images.iterdir():
        uncertainty = nib.load(out / file.name.replace(".nii.gz", "_uncertainty.nii.gz"))
        assert uncertainty.shape == nib.load(file).shape
        assert 0 <= uncertainty.get_fdata().min() < uncertainty.get_fdata().max() <= 0.5


def test_own_regions_are_one_setting(train_3d):
    regions = {"whole": [1, 2, 3], "core": [1, 3], "enhancing": [3]}
    run = train_3d(("regions.yaml",), regions=regions)
    scores = json.loads((run / "evaluation" / "validation" / "scores.json").read_text())["scores"]
    assert {"dice/whole", "dice/core", "dice/enhancing"} <= scores.keys()
    inference = ConfigParser(ConfigParser.load_config_file(str(run / "configs" / "inference.json")))
    assert inference.get_parsed_content("postprocessing").transforms[1].labels == [2, 1, 3]


def test_the_metadata_of_a_run_say_the_grid_that_its_network_expects(train_3d):
    run = train_3d((), spacing=[1.5, 1.5, 2.0], axcodes="LPS")
    image = json.loads((run / "configs" / "metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    assert (image["axcodes"], image["spacing"]) == ("LPS", [1.5, 1.5, 2.0])
    own = json.loads((CONFIGS / "metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    assert (own["axcodes"], own["spacing"]) == tuple(settings(configs=CONFIGS)[key] for key in ("axcodes", "spacing"))


def test_the_window_of_the_training_data_goes_along_with_a_run(train_3d, blobs_of, run_bundle, tmp_path):
    """The run is moved away from its data, and predicts with the four numbers that it found there."""
    overlays = ("norm_ct_percentiles.yaml",)
    blobs = shutil.copytree(blobs_of(overlays), tmp_path / "data")
    run = train_3d(overlays, dataset_dir=str(blobs), data_list=str(blobs / "blobs.json"))
    inside = [  # fold 0 validates: the training cases are those with odd numbers
        read_nifti(blobs / "images" / f"blobs_{number}.nii.gz")[
            read_nifti(blobs / "labels" / f"blobs_{number}.nii.gz") > 0
        ]
        for number in (1, 3, 5)
    ]
    voxels = np.concatenate(inside)
    low, high = np.percentile(voxels, (0.5, 99.5))
    numbers = {"low": low, "high": high, "mean": voxels.mean(), "std": voxels.std()}
    for name in ("train.json", "inference.json"):
        assert json.loads((run / "configs" / name).read_text())["foreground"] == pytest.approx(numbers)
    assert str(numbers["mean"])[:6] in json.loads((run / "configs" / "metadata.json").read_text())["image_classes"]
    before = predict(run, run_bundle, blobs / "images", tmp_path / "before")
    moved = run.rename(tmp_path / "moved")
    images = (blobs / "images").rename(tmp_path / "images")
    shutil.rmtree(blobs)
    after = predict(moved, run_bundle, images, tmp_path / "after")
    assert all(np.array_equal(after[name].dataobj, before[name].dataobj) for name in before)
    parser = ConfigParser(ConfigParser.load_config_file(str(moved / "configs" / "inference.json")))
    scan = np.asarray(nib.load(images / "blobs_0.nii.gz").dataobj)
    (image,) = parser.get_parsed_content("preprocessing")({"image": str(images / "blobs_0.nii.gz")})["image"]
    assert image.min() == pytest.approx((low - numbers["mean"]) / numbers["std"], abs=1e-4)
    assert scan.min() < low, "so that something was clipped"


def test_half_of_the_crops_are_laid_around_an_organ(blobs):
    share = {}
    for probability in (0.0, settings(configs=CONFIGS)["spatial_augmentation"]["balance_prob"]):
        parser = ConfigParser(settings(configs=CONFIGS))
        options = {"crop_size": [4, 4, 2], "spatial_augmentation#prob": 0.0}
        parser.update({**small_training_3d(blobs), **options, "spatial_augmentation#balance_prob": probability})
        dataset = parser.get_parsed_content("train#dataset")
        share[probability] = np.mean([np.any(dataset[0, seed]["label"].numpy() > 0) for seed in range(100)])
    assert share[0.0] < 0.6
    assert share[0.5] == pytest.approx(0.5 + 0.5 * share[0.0], abs=0.1)


def test_mirrors_are_put_around_the_windows():
    parser = ConfigParser(settings("infer_mirrors.yaml", file="inference.json", configs=CONFIGS))
    parser.update({"network_def#channels": [4, 8], "network_def#strides": 2, "crop_size": [8, 8, 8], "device": "cpu"})
    inferer, network = (parser.get_parsed_content(key) for key in ("inferer", "network_def"))
    assert isinstance(inferer, AveragedInferer)
    calls, windows = [], inferer.inferer
    inferer.inferer = lambda image, net: calls.append(image) or windows(image, net)
    with torch.no_grad():
        assert inferer(torch.rand(1, 1, 9, 10, 8), network.eval()).shape == (1, 4, 9, 10, 8)
    assert len(calls) == 8


def test_the_hippocampus_overlay_fits_its_list():
    config = settings("data_hippocampus.yaml", configs=CONFIGS)
    cases = load_data_list(ROOT / config["data_list"])
    check_fits(cases, config["class_names"], config["in_channels"], config["spatial_dims"])
    assert [len(cases.select("validation", fold)) for fold in range(8)] == [20] * 8
    assert len(cases.select("test")) == 40
