"""Every overlay of bundles/unet, alone and with others, trains and leaves a run that predicts."""

import json
import re
import shutil

import numpy as np
import pytest
import tifffile
import torch
from kinds import KINDS
from monai.bundle import ConfigParser
from monai.bundle.scripts import verify_net_in_out
from overlays import OVERLAYS, PAPER, SIZE, names, predict, settings
from run_files import last

from pipeline.errors import InputError

COMBINATIONS = [
    *((name,) for name in OVERLAYS),
    PAPER,
    ("net_paper.yaml", "infer_rotations7.yaml", "loss_border_dice.yaml", "aug_monai.yaml"),
    ("infer_dihedral8.yaml", "aug_none.yaml", "net_paper.yaml"),
    ("net_compact.yaml", "infer_dihedral8.yaml", "loss_border.yaml", "aug_none.yaml"),
    ("net_compact.yaml", "loss_ce.yaml", "opt_nnunet.yaml"),
    ("net_compact.yaml", "loss_dice.yaml", "net_global_attention.yaml"),
    ("data_dsb2018.yaml", "net_keras3.yaml", "loss_border.yaml", "aug_monai.yaml", "opt_adam.yaml"),
    ("data_isbi2012.yaml", "loss_border.yaml", "opt_nnunet.yaml", "net_separate_attention.yaml"),
]


@pytest.mark.parametrize("overlays", COMBINATIONS, ids=names)
def test_two_steps_of_training_leave_a_run_that_predicts(overlays, train, data_of, run_bundle, tmp_path):
    run = train(overlays)
    maps = predict(run, run_bundle, data_of(overlays), tmp_path / "out")
    assert len(maps) == 8
    for labels in maps:
        assert labels.shape == (SIZE, SIZE)
        assert set(np.unique(labels)) <= {0, 1}


@pytest.mark.parametrize("mode", ["deconv", "nearest", "linear", "cubic"])
@pytest.mark.parametrize("padding", [(), ("net_paper.yaml",)], ids=names)
def test_up_sampling_is_one_override(mode, padding, train, data_of, run_bundle, tmp_path):
    crop = {"crop_size": {"linear": [48, 48], "cubic": [52, 52]}.get(mode, [44, 44])} if padding else {}
    run = train(padding, **{"network_def#upsample": mode}, **crop)
    assert json.loads((run / "configs" / "inference.json").read_text())["network_def"]["upsample"] == mode
    assert predict(run, run_bundle, data_of(padding), tmp_path / "out")[0].shape == (SIZE, SIZE)


@pytest.mark.parametrize(
    ("configs", "name"),
    [(kind.configs, name) for kind in KINDS.values() for name in kind.overlays],
    ids=lambda value: value if isinstance(value, str) else value.parent.name,
)
def test_an_overlay_is_short_says_what_it_is_and_sets_what_the_bundle_has(configs, name):
    lines = (configs / name).read_text().splitlines()
    assert len(lines) <= 20
    assert re.match(r"((data|net|norm|loss|aug|opt|infer|post|measures)_\w+|regions)\.yaml", name)
    assert lines[0].startswith("# ")
    known = (
        settings(configs=configs).keys()
        | settings(file="inference.json", configs=configs).keys()
        | {"regions", "foreground"}
    )
    assert {re.split("#|::", key)[0] for key in ConfigParser.load_config_file(str(configs / name))} <= known


@pytest.mark.parametrize(
    ("name", "channels", "taken", "given"),
    [
        ("net_compact", {"0": "cell"}, "4*n", "4*n"),
        # Two levels take 18, 20, ... pixels and give 2, 4, ...: 18 is n = 1.
        ("net_paper", {"0": "background", "1": "cell"}, "2*n+16", "2*n+0"),
    ],
)
def test_the_metadata_of_a_run_are_those_of_its_network(name, channels, taken, given, train):
    configs = train((f"{name}.yaml",)) / "configs"
    sizes = json.loads((configs / "metadata.json").read_text())["network_data_format"]
    image, pred = sizes["inputs"]["image"], sizes["outputs"]["pred"]
    assert (pred["num_channels"], pred["channel_def"]) == (len(channels), channels)
    assert (image["spatial_shape"], pred["spatial_shape"]) == ([taken] * 2, [given] * 2)
    files = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.json")}
    verify_net_in_out(net_id="network_def", device="cpu", **files)


def test_a_network_may_be_given_in_the_users_own_words(train, data_of, run_bundle, tmp_path):
    run = train((), **{"width": 3, "double": "$2 * @width", "network_def#channels": "$[@width, @double]"})
    assert torch.load(run / "models" / "model.pt", weights_only=True)["heads.0.weight"].shape[1] == 3
    assert len(predict(run, run_bundle, data_of(()), tmp_path / "out")) == 8


def test_a_run_of_valid_convolutions_that_was_killed_at_its_end_is_completed(train, tmp_path):
    options = {"output_dir": "runs", "run_name": "a", "crop_size": [43, 43], "network_def#strides": 3}
    train(("net_paper.yaml",), **options)
    run = tmp_path / "runs" / "a"
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**facts, "completed_epoch": None}))
    shutil.rmtree(run / "docs")
    train(("net_paper.yaml",), resume=True, **options)  # no crop is drawn, and the images' 48 pixels are no legal size
    assert (run / "docs" / "README.md").is_file()


@pytest.mark.parametrize(
    ("overlays", "overrides", "message"),
    [
        ((), {"network_def#padding": "valid"}, "tiling: SlidingWindow"),
        (("net_paper.yaml",), {"crop_size": [45, 45]}, "crop_size: .*make it 44 or 46 on axis 0"),
        (("net_paper.yaml",), {"network_def#padding": "same"}, "tiling: OverlapTileInferer"),
        (("net_paper.yaml", "opt_nnunet.yaml"), {}, "deep_supervision with padding='valid'"),
        (("net_paper.yaml", "net_context.yaml"), {}, "context or attention with padding='valid'"),
    ],
)
def test_sizes_that_do_not_fit_are_said_before_the_training(overlays, overrides, message, train, tmp_path):
    with pytest.raises(InputError, match=message):
        train(overlays, **overrides)
    assert not (tmp_path / "runs").exists()


def test_one_output_is_the_probability_of_the_foreground(train, data_of, run_bundle, tmp_path):
    overlays, out = ("net_compact.yaml",), tmp_path / "out"
    run = train(overlays)
    maps = predict(run, run_bundle, data_of(overlays), out, save_probabilities=True)
    for labels, file in zip(maps, sorted(out.glob("*_prob.tif")), strict=True):
        probabilities = tifffile.imread(file)
        assert probabilities.shape == (SIZE, SIZE)
        assert probabilities.dtype == np.float32
        assert 0 <= probabilities.min() < probabilities.max() <= 1
        np.testing.assert_array_equal(labels, probabilities > 0.5)


@pytest.mark.parametrize("overlays", [("net_compact.yaml",), ("net_paper.yaml", "infer_dihedral8.yaml")], ids=names)
def test_a_run_is_evaluated_by_its_own_configs(overlays, train, data_of, run_bundle):
    run, data = train(overlays), data_of(overlays)
    files = [run / "configs" / name for name in ("train.json", "evaluate.json")]
    run_bundle("evaluating", *files, dataset_dir=str(data), device="cpu", bundle_root=str(run))
    scores = json.loads((run / "evaluation" / "test" / "scores.json").read_text())
    assert scores["cases"] == 2


def test_averaging_can_be_chosen_when_a_run_predicts(train, data_of, run_bundle, tmp_path):
    run, data = train(()), data_of(())
    options = {"save_probabilities": True}
    predict(run, run_bundle, data, tmp_path / "once", **options)
    predict(run, run_bundle, data, tmp_path / "mean", "infer_dihedral8.yaml", **options)
    once, mean = (tifffile.imread(tmp_path / folder / "disc_0_prob.tif") for folder in ("once", "mean"))
    assert once.shape == mean.shape
    assert not np.allclose(once, mean, atol=1e-3)


def test_a_run_keeps_its_inferer(train):
    run = train(("net_paper.yaml", "infer_rotations7.yaml"))
    kept = json.loads((run / "configs" / "inference.json").read_text())
    expected = settings("net_paper.yaml", "infer_rotations7.yaml")
    assert kept["inferer"] == expected["inferer"]
    assert kept["tiling"] == {**expected["tiling"], "tile_size": 12}


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("opt_sgd99", [0.001] * 4),
        ("opt_adam", [0.001] * 4),
        ("opt_nnunet", [0.01 * (1 - epoch / 4) ** 0.9 for epoch in range(4)]),
    ],
)
def test_a_recipe_keeps_to_its_schedule_also_when_it_is_resumed(name, rates, train, tmp_path):
    overlays = (f"{name}.yaml",)
    stop = {"train#trainer#max_epochs": 2}  # as a kill between two epochs
    for more in ({"run_name": "whole"}, {"run_name": "parts", **stop}, {"run_name": "parts", "resume": True}):
        train(overlays, epochs=4, output_dir="runs", **more)
    whole, parts = (last(tmp_path / "runs" / run) for run in ("whole", "parts"))
    for state in (whole, parts):
        assert [row["train/learning_rate"] for row in state["trainer"]["history"]] == pytest.approx(rates)
        assert all(0 <= row["val/accuracy"] <= 1 for row in state["trainer"]["history"])
    for key, value in whole["network"].items():
        assert torch.equal(value, parts["network"][key]), key
