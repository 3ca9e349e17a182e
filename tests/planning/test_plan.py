"""A plan of real files: an overlay that the bundle takes, with what the data and the clock say."""

import json
import re
from itertools import pairwise

import pytest
import yaml
from blobs import write_blobs
from discs import ROOT, write_discs
from monai.bundle import ConfigParser

from pipeline.errors import InputError
from pipeline.planning import timing
from pipeline.planning.plan import machine, plan

BUNDLES = ROOT / "bundles"


@pytest.fixture
def clock(monkeypatch):
    """Steps of 0.02 s per first channel, cases of 0.1 s, and no wait."""
    asked = []

    def step(config, settings):
        asked.append(settings)
        return 0.02 * settings["network_def#channels"][0]

    monkeypatch.setattr(timing, "step_seconds", step)
    monkeypatch.setattr(timing, "case_seconds", lambda config, settings: 0.1)
    monkeypatch.setattr(timing, "load_seconds", lambda config, settings: 0.5)
    monkeypatch.setattr(timing, "compiled_seconds", lambda config, settings: (0.1, 30.0))
    monkeypatch.setattr("pipeline.planning.plan.has_compiler", lambda: False)
    return asked


@pytest.fixture
def discs(tmp_path):
    return write_discs(tmp_path / "discs")


def test_a_plan_of_pictures(discs, tmp_path, clock):
    made = plan(discs, tmp_path / "plan.yaml", discs.parent, 1800, fold=1, device="cpu", bundles=BUNDLES)
    settings = yaml.safe_load(made.file.read_text())
    assert settings == made.settings
    assert made.config == BUNDLES / "unet" / "configs" / "train.json"
    assert settings["data_list"] == str(discs)
    assert settings["fold"] == 1
    assert settings["crop_size"] == [48, 48]
    assert settings["class_names"] == ["background", "cell"]
    assert settings["network_def#channels"][0] == 16  # 32 would need 4,000 steps of 0.64 s
    assert len(settings["network_def#channels"]) == len(settings["network_def#strides"]) + 1
    assert settings["compile"] is False
    assert clock[0]["crop_size"] == [48, 48]
    # 0.1 s for a case, twice for each of 3 that validate, and half a second to read each of 8
    steps = 0.93 * (1800 - 35 - 0.6 - 15 - 0.2 - 4) * 0.92 / 0.32
    assert made.length.steps == pytest.approx(steps, rel=0.05)


def test_every_setting_but_the_data_has_its_reason_above_it(discs, tmp_path, clock):
    text = plan(discs, tmp_path / "plan.yaml", discs.parent, 1800, device="cpu", bundles=BUNDLES).file.read_text()
    said = text.partition("# == What the cases say")[2]
    lines = [line for line in said.splitlines() if line and not line.startswith(" ")]
    for above, line in pairwise(lines):
        assert line.startswith("#") or above.startswith("# "), line
    assert "3 training, 3 validation and 2 test cases, 30 minutes on " in text
    assert re.search(r"python -m monai.bundle run training --config_file \"\['.*train.json','.*plan.yaml'\]\"", text)


def test_a_short_time_makes_a_smaller_crop(tmp_path, clock):
    data_list = write_discs(tmp_path / "large", size=400)
    sizes = []
    for budget in (900, 200):
        made = plan(data_list, tmp_path / "plan.yaml", data_list.parent, budget, device="cpu", bundles=BUNDLES)
        sizes.append(made.settings["crop_size"])
    # 0.93 (200 - 35 - 15 - 4) s are 424 steps of 0.32 s, where 1,000 are wanted: 42 % of 256 x 256 pixels.
    assert sizes == [[256, 256], [168, 168]]


def test_compiling_is_measured_where_there_is_time(discs, tmp_path, clock, monkeypatch):
    monkeypatch.setattr("pipeline.planning.plan.has_compiler", lambda: True)
    made = plan(discs, tmp_path / "plan.yaml", discs.parent, 1800, device="cpu", bundles=BUNDLES)
    assert made.settings["compile"] is True
    assert "0.1 s compiled in 30 s" in made.file.read_text()
    made = plan(discs, tmp_path / "plan.yaml", discs.parent, 120, device="cpu", bundles=BUNDLES)
    assert made.settings["compile"] is False


@pytest.mark.parametrize("channel", ["CT", "MRI"])
def test_a_plan_of_volumes_holds_the_overlay_that_it_chose(tmp_path, clock, channel):
    data_list = write_blobs(tmp_path / "blobs")
    data_list.write_text(data_list.read_text().replace('"first"', f'"{channel}"'))
    made = plan(data_list, tmp_path / "plan.yaml", data_list.parent, 600, device="cpu", bundles=BUNDLES)
    assert ("foreground" in made.settings) == (channel == "CT")
    if channel == "CT":  # read once, now
        assert set(made.settings["foreground"]) == {"low", "high", "mean", "std"}
    assert made.config == BUNDLES / "unet3d" / "configs" / "train.json"
    assert made.settings["spacing"] == pytest.approx(
        [1, 1, 2.5], abs=0.5
    )  # drawn from 2 to 4 mm, of which 3 are no 3 times 1
    config = ConfigParser.load_config_files([str(made.config), str(made.file)])
    parser = ConfigParser()
    parser.update(config)
    network = parser.get_parsed_content("network_def")
    assert network.output_size(made.settings["crop_size"]) == tuple(made.settings["crop_size"])


def test_what_is_wrong_with_the_data_is_said_before_anything_is_timed(discs, tmp_path, clock):
    (discs.parent / "labels" / "disc_0.tif").unlink()
    with pytest.raises(InputError, match="disc_0"):
        plan(discs, tmp_path / "plan.yaml", discs.parent, 600, device="cpu", bundles=BUNDLES)
    assert not clock
    assert not (tmp_path / "plan.yaml").exists()


def test_folders_that_are_not_there(discs, tmp_path, clock):
    with pytest.raises(InputError, match=r"is no folder.*--dataset_dir"):
        plan(discs, tmp_path / "plan.yaml", tmp_path / "none", bundles=BUNDLES)
    with pytest.raises(InputError, match=r"no such bundle.*--bundles"):
        plan(discs, tmp_path / "plan.yaml", discs.parent, bundles=tmp_path)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("gpu", "none that is planned for"),
        ("CPU", "none that"),
        ("cuda:x", "none that"),
        ("cuda:64", r"this machine has \w+ CUDA"),
    ],
)
def test_a_device_that_is_not_there(device, said):
    with pytest.raises(InputError, match=rf"device '{device}'.*{said}.*say "):
        machine(device)


def test_objects_are_timed_with_their_overlays(discs, tmp_path, clock):
    data_list = json.loads(discs.read_text())
    discs.write_text(json.dumps({**data_list, "label_kind": "instances"}))
    made = plan(discs, tmp_path / "plan.yaml", discs.parent, 1800, device="cpu", bundles=BUNDLES)
    assert made.settings["instances#seeds"] == "probability"  # the rule, not the overlay's
    assert all("weight_steps" in settings and "validate#postprocessing" in settings for settings in clock)


def test_cases_that_are_read_anew_make_steps_longer(discs, tmp_path, clock, monkeypatch):
    whole = plan(discs, tmp_path / "plan.yaml", discs.parent, 1800, device="cpu", bundles=BUNDLES)
    monkeypatch.setattr("pipeline.planning.rules.CACHE_SHARE", 0.0)
    none = plan(discs, tmp_path / "plan.yaml", discs.parent, 1800, device="cpu", bundles=BUNDLES)
    assert none.settings["train#dataset#cache_num"] == 0
    assert none.length.step == whole.length.step + 4 * 0.5  # a batch of 4


def test_the_validation_is_timed_with_the_network_that_was_chosen(discs, tmp_path, clock, monkeypatch):
    asked = []

    def case(config, settings):
        asked.append(settings["network_def#channels"][0])
        return 0.1 * asked[-1]

    monkeypatch.setattr(timing, "case_seconds", case)
    made = plan(discs, tmp_path / "plan.yaml", discs.parent, 7200, device="cpu", bundles=BUNDLES)
    assert made.settings["network_def#channels"][0] == 32
    assert asked == [16, 32]
    assert "10 s for 3 cases" in made.file.read_text()
