"""What a run says of itself is true of its own data, whatever its bundle was made for."""

import json
from types import SimpleNamespace

import pytest
import yaml
from blobs import UNET3D
from discs import ROOT, UNET

from pipeline.run_metadata import describe_run


def load(bundle, name="metadata.json"):
    return json.loads((bundle / "configs" / name).read_text())


def described(bundle=UNET3D, overlay=None, data_list="hippocampus", network=None, scores=None, **config):
    merged = load(bundle, "train.json") | config
    if overlay:
        merged |= yaml.safe_load((bundle / "configs" / overlay).read_text())
    network = network or SimpleNamespace(in_channels=1, out_channels=len(merged["class_names"]))
    file = ROOT / "data_lists" / f"{data_list}.json" if isinstance(data_list, str) else data_list
    return describe_run(load(bundle), merged, network, file, scores)


def test_the_words_about_the_data_are_those_of_the_data_list():
    found = described(class_names=["background", "anterior", "posterior"])
    image = found["network_data_format"]["inputs"]["image"]
    assert found["label_classes"] == found["pred_classes"] == "0 background, 1 anterior, 2 posterior"
    assert (image["modality"], image["channel_def"]) == ("MRI", {"0": "MRI"})
    assert "medicaldecathlon.com" in found["data_source"]
    assert "CC-BY-SA-4.0" in found["data_source"]
    assert found["data_type"] == "files as the data list names them: .nii.gz"
    assert found["description"] == (
        "Segments 3D images into background, anterior and posterior. Trained on the data list 'hippocampus': Mono-modal"
        " MRI of the hippocampus, anterior and posterior: 200 of the 260 training volumes of Task04_Hippocampus: 40 "
        "for the test, 160 in 8 folds."
    )
    text = json.dumps(found)
    assert not [word for word in ("liver", "kidney", "vessel", '"CT', "organs") if word in text]


def test_what_is_not_about_the_data_stands():
    own, found = load(UNET3D), described(data_list="organs")
    for key in ("schema", "name", "version", "changelog", "authors", "copyright", "references", "supported_apps"):
        assert found[key] == own[key]
    assert found.keys() == own.keys()


def test_the_bundles_own_purpose_is_not_that_of_other_data(tmp_path):
    network = SimpleNamespace(in_channels=1, out_channels=2)
    lists = ROOT / "data_lists" / "cells.json"
    config = {"class_names": ["background", "cell"]}
    assert "intended_use" not in describe_run({"intended_use": "livers"}, config, network, lists)
    assert describe_run({"intended_use": "livers"}, config, network)["intended_use"] == "livers"


def test_channels_have_the_names_of_the_data_list(tmp_path):
    content = json.loads((ROOT / "data_lists" / "organs.json").read_text()) | {"channels": ["T1", "FLAIR"]}
    (tmp_path / "two.json").write_text(json.dumps(content))
    two = SimpleNamespace(in_channels=2, out_channels=4)
    found = described(data_list=tmp_path / "two.json", network=two)
    image = found["network_data_format"]["inputs"]["image"]
    assert (image["num_channels"], image["channel_def"]) == (2, {"0": "T1", "1": "FLAIR"})
    assert image["modality"] == "T1, FLAIR"
    assert found["image_classes"].startswith("2 channels: T1, FLAIR; ")
    unnamed = describe_run(load(UNET3D), {}, two)["network_data_format"]["inputs"]["image"]
    assert unnamed["num_channels"] == 2
    assert "channel_def" not in unnamed, "the bundle's names are of another number of channels"


@pytest.mark.parametrize(
    ("overlay", "words"),
    [
        (None, "ClipIntensityPercentilesd(lower=0.5, upper=99.5, channel_wise=True), Standardised"),
        ("norm_ct.yaml", "normalised by ScaleIntensityRanged(a_min=-200.0, a_max=400.0, b_min=-1.0, b_max=1.0, "),
        ("norm_nonzero.yaml", "normalised by NormalizeIntensityd(nonzero=True, channel_wise=True)"),
    ],
)
def test_the_images_are_said_to_be_normalised_as_they_are(overlay, words):
    assert words in described(overlay=overlay, data_list="organs")["image_classes"]


def test_numbers_that_a_run_found_are_told():
    steps = [{"_target_": "a.b.ClipAndStandardised", "keys": "image", "statistics": "@foreground"}]
    found = described(data_list="organs", normalisation=steps, foreground={"low": -20.0})
    assert found["image_classes"] == "1 channel: ct; normalised by ClipAndStandardised(statistics={'low': -20.0})"


def test_steps_that_are_no_plain_list_are_pointed_to():
    found = described(data_list="organs", normalisation="$[my.steps]")
    assert found["image_classes"] == "1 channel: ct; prepared as configs/train.json says"


def test_numbered_objects_are_no_classes():
    found = described(UNET, data_list="cells")
    assert found["label_classes"] == "0 background, every other value one cell"
    assert found["pred_classes"] == "0 background, 1 cell"
    assert found["image_classes"] == "1 channel: intensity; normalised by Standardised"


def test_regions_are_told_as_what_they_are():
    network = SimpleNamespace(in_channels=1, out_channels=3)
    found = described(overlay="regions.yaml", data_list="organs", network=network)
    assert found["pred_classes"] == (
        "regions that may overlap: organs (labels 1, 2, 3), enhanced (labels 2, 3), vessel (labels 3)"
    )
    assert found["label_classes"] == "0 background, 1 liver, 2 kidney, 3 vessel"
    assert found["description"].startswith("Segments 3D images into organs, enhanced and vessel. ")
    pred = found["network_data_format"]["outputs"]["pred"]
    assert pred["channel_def"] == {"0": "organs", "1": "enhanced", "2": "vessel"}


def test_the_metrics_are_the_validations_means():
    scores = {"scores": {"mean_dice": {"mean": 0.75, "std": 0.1}, "dice/vessel": {"cases": 0, "not_applicable": 3}}}
    assert described(scores=scores)["eval_metrics"] == {"val/mean_dice": 0.75}
    assert described()["eval_metrics"] == {}, "those of the bundle are of other weights"


def test_a_description_of_a_run_again_is_the_same():
    first = described(class_names=["background", "anterior", "posterior"])
    network = SimpleNamespace(in_channels=1, out_channels=3)
    config = load(UNET3D, "train.json") | {"class_names": ["background", "anterior", "posterior"]}
    assert describe_run(first, config, network, ROOT / "data_lists" / "hippocampus.json") == first
