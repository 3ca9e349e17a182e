"""What a worker makes of a recipe, and that it checks for itself."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from test_inference import bundle  # noqa: F401
from test_predict import image, write_images

from pipeline.batch.completion import digest_of
from pipeline.batch.inputs import find_inputs
from pipeline.cluster import recipe as module
from pipeline.cluster.recipe import Recipe, introduce, predict_case
from pipeline.cluster.sameness import World
from pipeline.errors import InputError
from pipeline.inference import predictor_of


@pytest.fixture
def made(bundle, tmp_path, monkeypatch):  # noqa: F811
    """A recipe of the tiny bundle, in a process that has no other."""
    monkeypatch.setattr(module, "_opened", None)
    monkeypatch.setattr(module, "is_still_wanted", lambda: lambda: True)
    write_images(tmp_path / "in", "a.tif")
    files = (str(bundle / "configs" / "inference.json"),)
    overrides = {"bundle_root": str(bundle), "input_dir": tmp_path / "in", "output_dir": tmp_path / "out"}
    settings = digest_of(predictor_of(files, False, overrides).settings)
    return Recipe(files, overrides, False, str(tmp_path), World(), settings)


def test_a_worker_loads_once_and_predicts_as_the_bundle_does(made, tmp_path):
    assert introduce(made)["execution"] == {"precision": "float32", "backend": "torch"}
    opened = module._opened[1]
    (entry,) = find_inputs(tmp_path / "in", spatial_dims=2)
    row, seconds, lines = predict_case(made, entry)
    assert row["status"] == "done"
    assert {"read", "forward", "write"} <= seconds.keys()
    assert lines == []
    assert module._opened[1] is opened
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "a.tif"), image(0) > 100)


def test_a_worker_trusts_no_config_that_it_has_not_checked(made):
    file = Path(made.files[0])
    content = json.loads(file.read_text())
    content["predictor"]["preprocessing"] = {"_target_": "subprocess.run", "args": ["true"]}
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="entry 'predictor#preprocessing' is not run"):
        introduce(made)


def test_other_settings_are_told(made):
    with pytest.raises(InputError, match="its settings come to something else there"):
        introduce(replace(made, settings="of another config"))


def test_a_world_that_differs_is_told_before_anything_is_loaded(made, tmp_path):
    with pytest.raises(InputError, match="they do not see it"):
        introduce(replace(made, world=World(present=(str(tmp_path / "nowhere"),))))
    assert module._opened is None


def test_what_nobody_waits_for_is_not_begun(made, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "is_still_wanted", lambda: lambda: False)
    (entry,) = find_inputs(tmp_path / "in", spatial_dims=2)
    with pytest.raises(RuntimeError, match="case 'a' was not begun"):
        predict_case(made, entry)
    assert not (tmp_path / "out" / "a.tif").exists()


def test_relative_paths_begin_where_the_client_stands(made, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    (tmp_path / "there").mkdir()
    with module._working_in(str(tmp_path / "there")):
        assert os.getcwd() == str(tmp_path / "there")
    assert os.getcwd() == "/"
    with module._working_in(str(tmp_path / "nowhere")):
        assert os.getcwd() == "/"
