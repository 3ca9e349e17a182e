"""Bad data ends the user's own command with one error that names case, file, reason and remedy, before any training."""

import json
import shutil

import numpy as np
import pytest
import tifffile
from discs import UNET, small_training
from forked import Python


@pytest.fixture
def folder(discs, tmp_path):
    """A copy of the data that a test may spoil."""
    return shutil.copytree(discs, tmp_path / "data")


def edit_list(folder, change):
    content = json.loads((folder / "discs.json").read_text())
    change(content)
    (folder / "discs.json").write_text(json.dumps(content))


def missing_file(folder):
    (folder / "images" / "disc_2.tif").unlink()


def another_size(folder):
    tifffile.imwrite(folder / "labels" / "disc_2.tif", np.zeros((40, 48), np.uint8))


def label_outside_the_classes(folder):
    edit_list(folder, lambda content: content.update(label_kind="classes"))
    tifffile.imwrite(folder / "labels" / "disc_2.tif", np.full((48, 48), 7, np.uint8))


def empty_list(folder):
    edit_list(folder, lambda content: content.update(cases=[]))


def not_finite(folder):
    tifffile.imwrite(folder / "images" / "disc_2.tif", np.full((48, 48), np.nan, np.float32))


def colours(folder):
    tifffile.imwrite(folder / "images" / "disc_2.tif", np.zeros((48, 48, 3), np.uint8), photometric="rgb")


def other_classes(folder):
    edit_list(folder, lambda content: content.update(label_kind="classes", classes=["background", "a", "b"]))


SPOILED = [
    (missing_file, ["case 'disc_2'", "images/disc_2.tif", "does not exist"]),
    (another_size, ["case 'disc_2'", "disc_2.tif", "40", "48"]),
    (label_outside_the_classes, ["case 'disc_2'", "labels/disc_2.tif", "7"]),
    (empty_list, ["discs.json", "cases"]),
    (not_finite, ["case 'disc_2'", "images/disc_2.tif", "finite"]),
    (colours, ["case 'disc_2'", "images/disc_2.tif", "3 channels"]),
    (other_classes, ["class_names", "background, a, b"]),
]


@pytest.mark.parametrize(("spoil", "words"), SPOILED, ids=[spoil.__name__ for spoil, _ in SPOILED])
def test_training_does_not_begin(spoil, words, folder, tmp_path):
    spoil(folder)
    options = [item for key, value in small_training(folder).items() for item in (f"--{key}", str(value))]
    arguments = ["run", "training", "--config_file", UNET / "configs" / "train.json", *options]
    result = Python("-m", "monai.bundle", *arguments, cwd=tmp_path).wait()
    assert result.returncode == 1
    errors = result.stderr[result.stderr.index("error: ") :]
    for word in [*words, "Remedy: "]:
        assert word in errors
    assert "Traceback" not in result.stderr
    assert {item.name for item in tmp_path.iterdir()} == {"data"}, "no run folder and no MLflow store"
