"""What is predicted, what is left out, and what becomes of an image that cannot be read."""

import csv
import json
import logging

import numpy as np
import pytest
import tifffile
import torch
from monai.inferers import SimpleInferer
from monai.transforms import AsDiscreted, Compose

from pipeline.cli import main
from pipeline.errors import InputError
from pipeline.predict import FolderPredictor, list_inputs, predict_with_bundle, write_summary
from pipeline.transforms.load_image import StrictLoadImaged
from pipeline.transforms.save_image import AtomicSaveImaged


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def ids(*arguments):
    return [record["id"] for record in list_inputs(*arguments)]


# --- list_inputs ------------------------------------------------------------------------------------------------------


def test_images_of_all_folders_in_order(tmp_path):
    touch(tmp_path, "b.png", "a/deep/er/x.nii.gz", "a/y.TIF", "c.jpeg", "a.mha", "z.nrrd")
    assert ids(tmp_path) == ["a/deep/er/x.nii.gz", "a/y.TIF", "a.mha", "b.png", "c.jpeg", "z.nrrd"]
    assert list_inputs(str(tmp_path))[1] == {"id": "a/y.TIF", "image": str(tmp_path / "a" / "y.TIF")}


def test_what_is_no_image_is_left_out(tmp_path):
    touch(tmp_path, "a.png", "notes.txt", "summary.csv", "png", "scan.dcm", "x.tif/inside.png")
    assert ids(tmp_path) == ["a.png", "x.tif/inside.png"]


def test_hidden_files_and_folders_are_left_out(tmp_path):
    # macOS leaves ._a.png beside a.png, and a write that was cut off leaves .tmp-...
    touch(tmp_path, "a.png", "._a.png", ".tmp-1-a.tif", ".thumbnails/a.png", "b/.cache/deep/c.png")
    assert ids(tmp_path) == ["a.png"]


def test_a_hidden_folder_above_the_input_folder_hides_nothing(tmp_path):
    touch(tmp_path, ".data/in/a.png")
    assert ids(tmp_path / ".data" / "in") == ["a.png"]


def test_an_output_folder_inside_is_left_out(tmp_path):
    touch(tmp_path, "a.png", "out/a.png", "out/deep/b.png", "out_of_focus/c.png", "other/out/d.png")
    assert ids(tmp_path, tmp_path / "out") == ["a.png", "other/out/d.png", "out_of_focus/c.png"]


def test_it_is_left_out_however_it_is_spelled(tmp_path, monkeypatch):
    touch(tmp_path, "in/a.png", "in/out/a.png")
    monkeypatch.chdir(tmp_path)
    assert ids("in", tmp_path / "in" / "x" / ".." / "out") == ["a.png"]
    (tmp_path / "link").symlink_to(tmp_path / "in" / "out")
    assert ids("in", "link") == ["a.png"]


@pytest.mark.parametrize("output", [".", "in", "elsewhere"])
def test_any_other_output_folder_hides_nothing(tmp_path, monkeypatch, output):
    touch(tmp_path, "in/a.png", "in/b/c.png")
    monkeypatch.chdir(tmp_path)
    assert ids("in", output) == ["a.png", "b/c.png"]


# --- FolderPredictor --------------------------------------------------------------------------------------------------


def threshold(at):
    """A network whose class 1 wins above an intensity."""
    network = torch.nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        network.weight[:] = torch.tensor([0.0, 1.0])[:, None, None, None]
        network.bias[:] = torch.tensor([0.0, -at])
    return network


@pytest.fixture
def predictor(tmp_path):
    """Predicts `in` into `out`: class 1 where a pixel is above 100.5, which the network knows from its weights only."""
    torch.save(threshold(100.5).state_dict(), tmp_path / "model.pt")
    writer = AtomicSaveImaged(keys="pred", output_dir=tmp_path / "out", root=tmp_path / "in")
    return FolderPredictor(
        input_dir=str(tmp_path / "in"),
        output_dir=str(tmp_path / "out"),
        network=torch.nn.Conv2d(1, 2, 1),
        weights=str(tmp_path / "model.pt"),
        preprocessing=StrictLoadImaged(keys="image", spatial_dims=2),
        inferer=SimpleInferer(),
        postprocessing=Compose([AsDiscreted(keys="pred", argmax=True), writer]),
    )


def image(number, size=(6, 9)):
    return np.random.default_rng(number).integers(0, 256, size).astype(np.uint8)


def write_images(folder, *names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / name, image(number))


def test_every_image_is_predicted_under_its_own_name(predictor, tmp_path):
    names = ["a.tif", "b/a.tif", "b/c.tif"]
    write_images(tmp_path / "in", *names)
    rows = predictor.run()
    for number, name in enumerate(names):
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / name), image(number) > 100)
    assert [(row["case"], row["status"], row["reason"]) for row in rows] == [(name, "done", "") for name in names]


def test_the_network_does_not_train_while_it_predicts(predictor, tmp_path):
    write_images(tmp_path / "in", "a.tif")
    predictor.network.train()
    seen = []
    predictor.inferer = lambda images, network: (
        seen.append((network.training, torch.is_grad_enabled())) or network(images)
    )
    predictor.run()
    assert seen == [(False, False)]


def test_a_bad_image_is_reported_and_the_others_are_done(predictor, tmp_path, caplog):
    write_images(tmp_path / "in", "a.tif", "b.tif", "c.tif", "d.tif")
    (tmp_path / "in" / "b.tif").write_bytes(b"this is no TIFF")
    (tmp_path / "in" / "d.tif").write_bytes(b"")
    with pytest.raises(InputError) as caught, caplog.at_level(logging.INFO):
        predictor.run()
    message = str(caught.value)
    assert "2 of 4 images were not predicted" in message
    assert caught.value.file == str(tmp_path / "out" / "summary.csv")
    assert caught.value.remedy
    for name in ("b.tif", "d.tif"):
        assert f"case '{name}'" in message
        assert f"case '{name}'" in caplog.text
    assert "a.tif" not in message
    assert "2 of 4 images predicted" in caplog.text
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"a.tif", "c.tif", "summary.csv", "summary.json"}
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "c.tif"), image(2) > 100)


def test_an_error_of_the_network_is_told_with_its_case(predictor, tmp_path):
    write_images(tmp_path / "in", "a.tif", "b.tif")

    def fail(images, network):
        if (images.numpy()[0, 0] == image(0)).all():
            raise MemoryError("too large")
        return network(images)

    predictor.inferer = fail
    with pytest.raises(InputError) as caught:
        predictor.run()
    assert caught.value.reason == "1 of 2 images were not predicted:\n  case 'a.tif': MemoryError: too large\n"
    assert (tmp_path / "out" / "b.tif").exists()


class Spreading:
    """An inferer whose versions disagree by the number of the class, in tenths."""

    def __call__(self, images, network):
        raise AssertionError("predicting once more would be in vain")

    def predict_with_spread(self, images, network):
        logits = network(images)
        return logits, torch.tensor([0.1, 0.2])[None, :, None, None].expand_as(logits)


def test_the_uncertainty_is_that_of_the_least_certain_class(predictor, tmp_path):
    write_images(tmp_path / "in", "a.tif")
    options = {"output_dir": tmp_path / "out", "root": tmp_path / "in", "postfix": "_uncertainty"}
    writer = AtomicSaveImaged(keys="uncertainty", kind="probabilities", **options)
    predictor.inferer, predictor.uncertainty = Spreading(), True
    predictor.postprocessing = Compose([*predictor.postprocessing.transforms, writer])
    predictor.run()
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "a.tif"), image(0) > 100)
    uncertainty = tifffile.imread(tmp_path / "out" / "a_uncertainty.tif")
    assert uncertainty.dtype == np.float32
    np.testing.assert_array_equal(uncertainty, np.full((6, 9), 0.2, np.float32))


def test_a_single_prediction_has_no_uncertainty():
    with pytest.raises(InputError, match=r"save_uncertainty.*a single prediction.*infer_dihedral8\.yaml"):
        FolderPredictor("in", "out", torch.nn.Identity(), "", None, SimpleInferer(), None, uncertainty=True)


def test_the_summary_tells_of_every_case(predictor, tmp_path):
    write_images(tmp_path / "in", "a.tif", "b, c.tif")
    (tmp_path / "in" / "a.tif").write_bytes(b"no TIFF")
    with pytest.raises(InputError):
        predictor.run()
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [(row["case"], row["status"]) for row in rows] == [("a.tif", "failed"), ("b, c.tif", "done")]
    assert "case 'a.tif'" in rows[0]["reason"]
    assert rows[1]["reason"] == ""
    assert all(0 <= row["seconds"] < 60 for row in rows)
    with (tmp_path / "out" / "summary.csv").open(newline="") as stream:
        assert list(csv.DictReader(stream)) == [{key: str(value) for key, value in row.items()} for row in rows]


def test_a_reason_of_several_lines_stays_one_row(tmp_path):
    rows = [{"case": "a", "reason": 'first\nsecond, "third"'}, {"case": "b", "reason": ""}]
    write_summary(tmp_path, rows)
    with (tmp_path / "summary.csv").open(newline="") as stream:
        assert list(csv.DictReader(stream)) == rows


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (None, "the input folder does not exist"),
        ([], "the input folder holds no image (.nii .nii.gz "),
        (["notes.txt", ".hidden.tif"], "the input folder holds no image"),
    ],
)
def test_no_image_is_an_error_before_the_weights_are_looked_at(predictor, tmp_path, made, reason):
    (tmp_path / "model.pt").unlink()
    if made is not None:
        (tmp_path / "in").mkdir()
        touch(tmp_path / "in", *made)
    with pytest.raises(InputError) as caught:
        predictor.run()
    assert caught.value.reason.startswith(reason)
    assert caught.value.file == str(tmp_path / "in")
    assert caught.value.remedy == "check --input_dir"
    assert not (tmp_path / "out").exists()


def test_predicting_again_into_a_folder_inside_does_not_predict_predictions(predictor, tmp_path):
    write_images(tmp_path / "in", "a.tif")
    writer = predictor.postprocessing.transforms[1]
    predictor.output_dir = writer.output_dir = tmp_path / "in" / "out"
    assert len(predictor.run()) == 1
    assert len(predictor.run()) == 1
    assert [file.name for file in (tmp_path / "in" / "out").glob("*.tif")] == ["a.tif"]


# --- predict_with_bundle ----------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path):
    """A bundle whose network is the threshold above, in the fewest lines."""
    (tmp_path / "bundle" / "models").mkdir(parents=True)
    torch.save(threshold(100.5).state_dict(), tmp_path / "bundle" / "models" / "model.pt")
    saving = {
        "_target_": "pipeline.transforms.save_image.AtomicSaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "root": "@input_dir",
    }
    config = {
        "bundle_root": "elsewhere",
        "input_dir": "elsewhere",
        "output_dir": "elsewhere",
        "save_probabilities": True,
        "predictor": {
            "_target_": "pipeline.predict.FolderPredictor",
            "input_dir": "@input_dir",
            "output_dir": "@output_dir",
            "network": {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": 1},
            "weights": "$@bundle_root + '/models/model.pt'",
            "preprocessing": {
                "_target_": "pipeline.transforms.load_image.StrictLoadImaged",
                "keys": "image",
                "spatial_dims": 2,
            },
            "inferer": {"_target_": "SimpleInferer"},
            "postprocessing": {
                "_target_": "Compose",
                "transforms": [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}, saving],
            },
        },
        "initialize": [],
        "inference": ["$@predictor.run()"],
    }
    (tmp_path / "bundle" / "configs").mkdir()
    (tmp_path / "bundle" / "configs" / "inference.json").write_text(json.dumps(config))
    return tmp_path / "bundle"


def test_the_config_of_a_bundle_is_run_with_its_own_weights(bundle, tmp_path, monkeypatch):
    write_images(tmp_path / "in", "a.tif")
    monkeypatch.chdir(tmp_path)
    predict_with_bundle("bundle", "in", "out")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "a.tif"), image(0) > 100)


def test_the_command_ends_with_status_1_after_the_others_are_done(bundle, tmp_path):
    write_images(tmp_path / "in", "a.tif", "b.tif")
    (tmp_path / "in" / "a.tif").write_bytes(b"no TIFF")
    with pytest.raises(SystemExit) as caught:
        main(["predict", str(bundle), str(tmp_path / "in"), str(tmp_path / "out")])
    assert isinstance(caught.value.code, str), "which Python prints to stderr before it ends with status 1"
    assert caught.value.code.startswith(f"error: file '{tmp_path}/out/summary.csv': 1 of 2 images were not predicted")
    assert (tmp_path / "out" / "b.tif").exists()


def test_a_folder_that_is_no_bundle(tmp_path):
    with pytest.raises(InputError) as caught:
        predict_with_bundle(tmp_path, "in", "out")
    assert caught.value.file == str(tmp_path / "configs" / "inference.json")
    assert "name a run's folder" in caught.value.remedy


def test_a_bug_in_a_config_is_no_users_mistake(bundle, tmp_path):
    file = bundle / "configs" / "inference.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"inference": ["$1 / 0"]}))
    with pytest.raises(RuntimeError) as caught:
        predict_with_bundle(bundle, str(tmp_path), str(tmp_path / "out"))
    assert not isinstance(caught.value, InputError)
