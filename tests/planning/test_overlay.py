"""An overlay that can be read by a person and by YAML."""

import yaml

from pipeline.planning.overlay import write_overlay
from pipeline.planning.rules import Choice


def test_what_is_written_is_what_is_read():
    values = {
        "spacing": [1.0, None, 2.5],
        "network_def#strides": [[2, 2], [1, 2]],
        "class_names": ["background", "yes", "1", "no: 'x'"],
        "epochs": 30,
        "compile": False,
        "rate": 1e-05,
        "dataset_dir": "data/a: b # c",
        "inferer": {"_target_": "a.B", "inferer": "@tiling", "axes": [0]},
        "normalisation": [{"_target_": "c.D", "keys": "image"}],
    }
    text = write_overlay(["A title"], {"All": [Choice(key, value, "because") for key, value in values.items()]})
    assert yaml.safe_load(text) == values


def test_reasons_stand_above_their_settings_and_are_wrapped():
    text = write_overlay(["A title", "    a command"], {"Size": [Choice("a", 1, "why " * 50)], "None": []})
    lines = text.splitlines()
    assert lines[:4] == ["# A title", "#     a command", "", "# == Size =="]
    assert lines[-1] == "a: 1"
    assert all(line.startswith("# why") and len(line) <= 118 for line in lines[4:-1])
    assert "None" not in text
