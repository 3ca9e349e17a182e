"""What is predicted, what is left out, and what becomes of an image that cannot be read."""

import csv
import json
import logging
import os
import signal

import numpy as np
import pytest
import tifffile
import torch
from monai.inferers import SimpleInferer
from monai.transforms import Compose

from pipeline.errors import InputError
from pipeline.predict import FolderPredictor, records
from pipeline.transforms.classes_from_logits import ClassesFromLogitsd
from pipeline.transforms.load_image import StrictLoadImaged
from pipeline.transforms.save_image import AtomicSaveImaged


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_records_name_the_files_of_every_case(tmp_path):
    write_images(tmp_path, "b.tif", "a/x.tif", "a/x_0001.tif")
    assert records(str(tmp_path), spatial_dims=2) == [
        {"id": "a/x", "image": [str(tmp_path / "a" / "x.tif")]},
        {"id": "a/x_0001", "image": [str(tmp_path / "a" / "x_0001.tif")]},
        {"id": "b", "image": [str(tmp_path / "b.tif")]},
    ]
    touch(tmp_path, "c_0000.tif", "c_0001.tif")
    joined = records(str(tmp_path), str(tmp_path / "a"), 2, spatial_dims=2)
    assert joined[-1] == {"id": "c", "image": [str(tmp_path / "c_0000.tif"), str(tmp_path / "c_0001.tif")]}


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
    return make_predictor(tmp_path)


def make_predictor(folder, *writers, **options):
    writer = AtomicSaveImaged(keys="pred", output_dir=folder / "out")
    return FolderPredictor(
        input_dir=str(folder / "in"),
        output_dir=str(folder / "out"),
        network=torch.nn.Conv2d(1, 2, 1),
        weights=str(folder / "model.pt"),
        preprocessing=StrictLoadImaged(keys="image", spatial_dims=2),
        postprocessing=Compose([ClassesFromLogitsd(keys="pred"), writer, *writers]),
        class_names=["dark", "light"],
        **{"inferer": SimpleInferer(), **options},
    )


def image(number, size=(6, 9)):
    return np.random.default_rng(number).integers(0, 256, size).astype(np.uint8)


def write_images(folder, *names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / name, image(number))


def visible(folder):
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return sorted(str(file) for file in files if file.parts[0] != ".completed")


def test_every_image_is_predicted_under_its_own_name(predictor, tmp_path):
    names = ["a.tif", "b/a.tif", "b/c.tif"]
    write_images(tmp_path / "in", *names)
    rows = predictor.run()
    for number, name in enumerate(names):
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / name), image(number) > 100)
    assert [(row["case"], row["status"], row["reason"]) for row in rows] == [
        (case, "done", "") for case in ("a", "b/a", "b/c")
    ]


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
    for name in ("b", "d"):
        assert f"case '{name}', file '{tmp_path}/in/{name}.tif'" in message
        assert f"case '{name}', file" in caplog.text
    assert "a.tif" not in message
    assert "case 'a': done in" in caplog.text
    assert "2 of 4 images predicted" in caplog.text
    assert visible(tmp_path / "out") == ["a.tif", "c.tif", "summary.csv", "summary.json"]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "c.tif"), image(2) > 100)


def test_the_last_message_does_not_list_a_thousand_failures(predictor, tmp_path):
    for number in range(23):
        touch(tmp_path / "in", f"{number:02}.tif")
    with pytest.raises(InputError) as caught:
        predictor.run()
    lines = str(caught.value).splitlines()
    assert [line[:10] for line in lines[1:21]] == [f"  case '{number:02}" for number in range(20)]
    assert lines[21] == "  and 3 more, which the summary lists"
    assert lines[22] == "23 of 23 images were not predicted. Remedy: mend these images and run again with --resume"
    assert len(summary(tmp_path)) == 23


def test_an_error_of_the_network_is_told_with_its_case(predictor, tmp_path):
    write_images(tmp_path / "in", "a.tif", "b.tif")

    def fail(images, network):
        if (images.numpy()[0, 0] == image(0)).all():
            raise ArithmeticError("too large")
        return network(images)

    predictor.inferer = fail
    with pytest.raises(InputError) as caught:
        predictor.run()
    assert caught.value.reason == (
        "1 of 2 images were not predicted:\n  case 'a': ArithmeticError: too large\n1 of 2 images were not predicted"
    )
    assert (tmp_path / "out" / "b.tif").exists()


class Spreading:
    """An inferer whose versions disagree by the number of the class, in tenths."""

    def __call__(self, images, network):
        raise AssertionError("predicting once more would be in vain")

    def predict_with_spread(self, images, network):
        logits = network(images)
        return logits, torch.tensor([0.1, 0.2])[None, :, None, None].expand_as(logits)


def test_the_uncertainty_is_that_of_the_least_certain_class(tmp_path, predictor):
    write_images(tmp_path / "in", "a.tif")
    options = {"output_dir": tmp_path / "out", "postfix": "_uncertainty", "kind": "probabilities"}
    writer = AtomicSaveImaged(keys="uncertainty", **options)
    make_predictor(tmp_path, writer, inferer=Spreading(), uncertainty=True).run()
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "a.tif"), image(0) > 100)
    uncertainty = tifffile.imread(tmp_path / "out" / "a_uncertainty.tif")
    assert uncertainty.dtype == np.float32
    np.testing.assert_array_equal(uncertainty, np.full((6, 9), 0.2, np.float32))


def test_a_single_prediction_has_no_uncertainty():
    with pytest.raises(InputError, match=r"save_uncertainty.*a single prediction.*infer_dihedral8\.yaml"):
        FolderPredictor("in", "out", torch.nn.Identity(), "", None, SimpleInferer(), None, uncertainty=True)


def summary(folder, stem="summary"):
    return json.loads((folder / "out" / f"{stem}.json").read_text())


def test_the_summary_tells_of_every_case(predictor, tmp_path):
    write_images(tmp_path / "in", "a.tif", "b, c.tif")
    (tmp_path / "in" / "a.tif").write_bytes(b"no TIFF")
    with pytest.raises(InputError):
        predictor.run()
    failed, done = summary(tmp_path)
    assert (failed["case"], failed["status"]) == ("a", "failed")
    assert failed["reason"].startswith(f"case 'a', file '{tmp_path}/in/a.tif': ")
    light = int((image(1) > 100).sum())
    expected = {"case": "b, c", "status": "done", "reason": "", "shape": [6, 9], "outputs": ["b, c.tif"]}
    expected |= {"voxels/dark": 54 - light, "voxels/light": light}
    expected |= {"precision": "float32", "backend": "torch"}
    assert {key: value for key, value in done.items() if not key.startswith("seconds")} == expected
    stages = [done[f"seconds_{stage}"] for stage in ("read", "forward", "stitch", "invert", "write")]
    assert "seconds_resample" not in done
    assert [key for key in failed if key.startswith("seconds_")] == ["seconds_read"]
    assert done["seconds"] == pytest.approx(sum(stages), abs=0.003)
    assert all(0 <= second < 60 for second in stages)
    with (tmp_path / "out" / "summary.csv").open(newline="") as stream:
        assert [row["status"] for row in csv.DictReader(stream)] == ["failed", "done"]


def test_a_batch_that_is_stopped_leaves_a_summary(predictor, tmp_path, caplog):
    write_images(tmp_path / "in", "a.tif", "b.tif", "c.tif")
    predictor.inferer = lambda images, network: (
        (os.kill(os.getpid(), signal.SIGTERM) if (images.numpy()[0, 0] == image(1)).all() else None) or network(images)
    )
    with pytest.raises(SystemExit, match="143"):
        predictor.run()
    assert [row["status"] for row in summary(tmp_path)][::2] == ["done", "waiting"]
    assert "--resume" in caplog.text
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# --- resume and shards ------------------------------------------------------------------------------------------------


class Counting:
    """An inferer that counts its images."""

    def __init__(self):
        self.images = 0

    def __call__(self, images, network):
        self.images += 1
        return network(images)


def run(folder, **options):
    """Run a predictor, and return how many images it predicted."""
    inferer = Counting()
    make_predictor(folder, inferer=inferer, **options).run()
    return inferer.images


def test_what_is_complete_is_not_done_again(predictor, tmp_path, caplog):
    write_images(tmp_path / "in", "a.tif", "b.tif", "c.tif")
    assert run(tmp_path) == 3
    before = summary(tmp_path)
    with caplog.at_level(logging.INFO):
        assert run(tmp_path, resume=True) == 0
    assert "3 of 3 cases were complete" in caplog.text
    assert summary(tmp_path) == before
    assert run(tmp_path) == 3, "without --resume everything is done"


def test_what_is_missing_or_changed_is_done_again(predictor, tmp_path):
    write_images(tmp_path / "in", "a.tif", "b.tif", "c.tif", "d.tif")
    run(tmp_path)
    before = {name: (tmp_path / "out" / name).read_bytes() for name in visible(tmp_path / "out") if name != "a.tif"}
    (tmp_path / "out" / "b.tif").unlink()
    (tmp_path / "out" / "c.tif").write_bytes(b"half")
    tifffile.imwrite(tmp_path / "in" / "a.tif", image(9))
    assert run(tmp_path, resume=True) == 3
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "a.tif"), image(9) > 100)
    for name in ("b.tif", "c.tif", "d.tif"):
        assert (tmp_path / "out" / name).read_bytes() == before[name]


def test_another_model_or_setting_does_all_again(predictor, tmp_path):
    write_images(tmp_path / "in", "a.tif", "b.tif")
    settings = {"threshold": 1, "device": "cpu", "output_dir": "out", "resume": False}
    assert run(tmp_path, settings=settings) == 2
    assert run(tmp_path, settings=settings | {"device": "cuda", "output_dir": "/x/out"}, resume=True) == 0
    assert run(tmp_path, settings=settings | {"threshold": 2}, resume=True) == 2
    torch.save(threshold(50.5).state_dict(), tmp_path / "model.pt")
    assert run(tmp_path, settings=settings | {"threshold": 2}, resume=True) == 2
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "a.tif"), image(0) > 50)


def test_a_failure_says_what_an_earlier_batch_has_left(predictor, tmp_path):
    write_images(tmp_path / "in", "a.tif", "b.tif")
    predictor.run()
    (tmp_path / "in" / "a.tif").write_bytes(b"no TIFF")
    with pytest.raises(InputError, match=r"What an earlier batch made of this case is still there: .*out/a\.tif"):
        run(tmp_path, resume=True)
    assert [row["status"] for row in summary(tmp_path)] == ["failed", "done"]


def test_shards_do_each_case_once(predictor, tmp_path):
    write_images(tmp_path / "in", "a.tif", "b.tif", "c.tif", "d.tif", "e.tif")
    assert [run(tmp_path, num_shards=2, shard_id=shard) for shard in (0, 1)] == [3, 2]
    assert [row["case"] for row in summary(tmp_path, "summary-0-of-2")] == ["a", "c", "e"]
    assert [row["case"] for row in summary(tmp_path, "summary-1-of-2")] == ["b", "d"]
    assert run(tmp_path, resume=True) == 0
    assert [row["status"] for row in summary(tmp_path)] == ["done"] * 5
    with pytest.raises(InputError, match="there is no shard 2 of 2"):
        run(tmp_path, num_shards=2, shard_id=2)


def test_a_result_that_would_share_a_file_with_another_is_refused(predictor, tmp_path):
    write_images(tmp_path / "in", "a.tif", "a_prob.tif")
    options = {"output_dir": tmp_path / "out", "kind": "probabilities", "postfix": "_prob"}
    reason = r"1 of 2 images.*\n  case 'a_prob': its result would have the name of the _prob file of case 'a'"
    with pytest.raises(InputError, match=reason):
        make_predictor(tmp_path, AtomicSaveImaged(keys="probabilities", **options), probabilities=True).run()
    assert visible(tmp_path / "out") == ["a.tif", "a_prob.tif", "summary.csv", "summary.json"]
    assert tifffile.imread(tmp_path / "out" / "a_prob.tif").shape == (2, 6, 9)
    assert len(predictor.run()) == 2, "without probabilities there is no clash"


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (None, "the input does not exist"),
        ([], "holds no image of 2D (.nii .nii.gz "),
        (["notes.txt", ".hidden.tif"], "holds no image of 2D"),
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
    assert caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_predicting_again_into_a_folder_inside_does_not_predict_predictions(predictor, tmp_path):
    write_images(tmp_path / "in", "a.tif")
    writer = predictor.postprocessing.transforms[1]
    predictor.output_dir = writer.output_dir = tmp_path / "in" / "out"
    assert len(predictor.run()) == 1
    assert len(predictor.run()) == 1
    assert [file.name for file in (tmp_path / "in" / "out").glob("*.tif")] == ["a.tif"]


def test_an_image_of_other_channels_fails_with_its_name(predictor, tmp_path):
    predictor.network.in_channels = 3
    write_images(tmp_path / "in", "a.tif")
    torch.save(torch.nn.Conv2d(1, 2, 1).state_dict(), tmp_path / "model.pt")
    with pytest.raises(InputError, match="the image has 1 channels, and the network was trained on 3"):
        predictor.run()
