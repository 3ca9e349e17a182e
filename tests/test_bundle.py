"""Overrides that nothing reads are errors; a config can be flattened and exported."""

import json
import re
from pathlib import Path

import pytest
import yaml
from forked import Python
from monai.bundle import ConfigParser, ConfigWorkflow

from pipeline import bundle
from pipeline.errors import InputError, find_input_error

TRAIN = {
    "imports": ["$import pipeline.bundle as bundle"],
    "bundle_root": "$bundle.root()",
    "epochs": 3,
    "resume": False,
    "network_def": {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": "@epochs"},
    "train": {"interval": 1},
    "initialize": ["$bundle.check('train.json')"],
    "config": "$bundle.config()",
    "run": ["$@train::interval"],
}


@pytest.fixture
def configs(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.json").write_text(json.dumps(TRAIN))
    (tmp_path / "configs" / "metadata.json").write_text("{}")
    return tmp_path / "configs"


def start(configs, *overlays, **overrides):
    files = [str(configs / name) for name in ("train.json", *overlays)]
    workflow = ConfigWorkflow(files, workflow_type="train", logging_file=False, **overrides)
    try:
        workflow.initialize()
    except RuntimeError as error:
        raise find_input_error(error) or error from None
    return workflow


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"epocs": 5}, "unknown setting 'epocs'. Remedy: did you mean epochs?"),
        ({"train#intervall": 5}, "unknown setting 'train#intervall'. Remedy: did you mean interval?"),
        (
            {"network_def#in_feature": 5},
            "torch.nn.Linear takes no argument 'network_def#in_feature'. Remedy: did you mean in_features?",
        ),
        (
            {"network_def": {"in_features": 5}},
            "would replace the component torch.nn.Linear. Remedy: override its leaves (network_def#in_features)",
        ),
        ({"network_def#_target_": "torch.nn.Liner"}, "there is no component torch.nn.Liner"),
        ({"network_def": 5}, "'network_def' is a component (torch.nn.Linear), not 5"),
        ({"epochs": "three"}, "'epochs' is a number, not 'three'"),
        ({"resume": "yes"}, "'resume' is true or false, not 'yes'"),
    ],
    ids=str,
)
def test_a_mistyped_override_is_an_error_with_a_suggestion(configs, override, message):
    with pytest.raises(InputError) as caught:
        start(configs, **override)
    assert message in str(caught.value)


def test_what_a_run_computes_stands_in_its_config_as_a_value(configs):
    overlay = {
        "window": "$[1.5, 2.5]",
        "config": "$bundle.config(window=@window)",
        "network_def#in_features": "@window",
    }
    (configs / "window.json").write_text(json.dumps(overlay))
    found = start(configs, "window.json").parser.get_parsed_content("config")
    assert found["window"] == [1.5, 2.5]
    assert found["network_def"]["in_features"] == "@window"
    assert found["config"] == "$bundle.config(window=@window)", "which gives the same again"


def test_all_mistakes_are_reported_together(configs):
    with pytest.raises(InputError, match=r"(?s)2 problems.*epocs.*resum"):
        start(configs, epocs=5, resum=True)


@pytest.mark.parametrize(
    "override",
    [
        {"epochs": 5},
        {"epochs": "@train::interval"},
        {"network_def#bias": False},  # an argument that the file does not name, but the component has
        {"my_size": 4, "network_def#in_features": "@my_size"},  # a variable of the user's own, which something reads
        {"network_def": {"_target_": "torch.nn.Identity"}},
        {"network_def": None},
    ],
    ids=str,
)
def test_what_is_meant_is_let_through(configs, override):
    start(configs, **override)


def test_a_run_of_several_processes_is_kept_as_one_of_a_single_process():
    """What `multi_gpu.json` says is taken back; what else the config says is not, a user's device for one."""
    for folder in (Path(__file__).parents[1] / "bundles").glob("*/configs"):
        alone = ConfigParser.load_config_file(str(folder / "train.json"))
        files = [str(folder / name) for name in ("train.json", "multi_gpu.json")]
        together = ConfigParser.load_config_files(files)
        assert together["device"] != alone["device"]
        assert bundle.of_one_process(together, folder) == bundle.of_one_process(alone, folder) == alone
        mine = bundle.of_one_process({**together, "device": "cpu", "epochs": 5}, folder)
        assert mine == {**alone, "device": "cpu", "epochs": 5}
        as_it_runs = ConfigParser(together)
        as_it_runs.parse()  # which spells references in another way
        made = bundle.of_one_process(as_it_runs.get(), folder)
        assert "::" in json.dumps(as_it_runs.get()["train"]["trainer"]["network"])
        assert not {"DistributedDataParallel", "OverRanks"} & set(re.findall(r"\w+", json.dumps(made)))


def test_mistakes_in_an_overlay_are_found_too(configs):
    (configs / "mine.yaml").write_text(yaml.safe_dump({"epocs": 5}))
    with pytest.raises(InputError, match="did you mean epochs"):
        start(configs, "mine.yaml")


@pytest.mark.parametrize(("given", "meant"), [("true", True), ("false", False), (True, True), ("False", False)])
def test_true_and_false_on_the_command_line_are_no_strings(configs, given, meant):
    workflow = start(configs, resume=given)
    assert workflow.parser.get_parsed_content("resume") is meant
    assert workflow.parser.get_parsed_content("config")["resume"] is meant


def test_the_plain_runner_prints_one_line(configs, tmp_path):
    arguments = ["run", "--config_file", str(configs / "train.json"), "--epocs", "50"]
    result = Python("-m", "monai.bundle", "run", *arguments, cwd=tmp_path).wait()
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1] == "error: unknown setting 'epocs'. Remedy: did you mean epochs?"
    assert "Traceback" not in result.stderr


def test_a_bug_is_still_a_traceback(configs, tmp_path):
    arguments = ["run", "--config_file", str(configs / "train.json"), "--run", "['$1/0']"]
    result = Python("-m", "monai.bundle", "run", *arguments, cwd=tmp_path).wait()
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stderr
    assert "Traceback" in result.stderr


def test_the_config_is_as_written_with_overrides_merged(configs, tmp_path):
    workflow = start(configs, **{"epochs": 7, "network_def#bias": False})
    config = workflow.parser.get_parsed_content("config")
    assert config == {**TRAIN, "epochs": 7, "network_def": {**TRAIN["network_def"], "bias": False}}
    assert workflow.bundle_root == str(tmp_path)


def test_a_config_without_a_workflow_finds_the_working_directory():
    assert ConfigParser(dict(TRAIN)).get_parsed_content("bundle_root") == "."


def test_flatten():
    nested = {"a": {"b": 1, "c": [1, 2]}, "d": [{"e": 2}, "x"], "f": {}, "g": None}
    assert bundle.flatten(nested) == {"a/b": 1, "a/c": [1, 2], "d/0/e": 2, "d/1": "x", "f": {}, "g": None}


def test_the_exported_bundle_predicts_with_the_network_that_was_trained(configs, tmp_path):
    own = {
        "imports": ["$import glob"],
        "bundle_root": "bundles/x",
        "device": "cpu",
        "network_def": {"_target_": "a"},
        "other": 1,
    }
    (configs / "inference.json").write_text(json.dumps(own))
    (configs / "evaluate.json").write_text("{}")
    (tmp_path / "list.json").write_text("{}")
    config = {**TRAIN, "device": "cuda", "network_def": {"_target_": "b"}, "resume": True}
    bundle.export(tmp_path / "run", config, configs, tmp_path / "list.json")
    written = {file.name: json.loads(file.read_text()) for file in (tmp_path / "run" / "configs").iterdir()}
    assert set(written) == {"train.json", "inference.json", "evaluate.json", "data_list.json"}
    assert written["inference.json"] == {
        "imports": ["$import glob", "$import pipeline.bundle as bundle"],
        "bundle_root": "$bundle.root()",
        "device": "cpu",
        "network_def": {"_target_": "b"},
        "other": 1,
    }
    assert written["train.json"]["resume"] is False
    assert written["train.json"]["data_list"] == "$@bundle_root + '/configs/data_list.json'"


def test_a_program_that_gives_values_in_place_of_an_expression_is_noticed():
    content = {
        "imports": TRAIN["imports"],
        "train": {"dataset": {"data": "$[1, 2]"}},
        "given": "$bundle.given('train#dataset#data')",
    }
    assert ConfigParser(content).get_parsed_content("given") is False
    parser = ConfigParser(content)
    parser.update({"train#dataset#data": [{"image": "a"}]})
    assert parser.get_parsed_content("given") is True
