"""A config from elsewhere computes and builds what is known to be harmless, and nothing else."""

from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from pipeline.errors import InputError
from pipeline.predict import predict_with_bundle
from pipeline.trust import check_config

ROOT = Path(__file__).parents[1]
BUNDLES = ("unet", "unet3d")


def check(config):
    check_config(ConfigParser(config), "inference.json")


@pytest.mark.parametrize("bundle", BUNDLES)
@pytest.mark.parametrize("name", ["train.json", "inference.json"])
def test_the_bundles_own_configs_are_allowed(bundle, name):
    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundles" / bundle / "configs" / name))
    check_config(parser, name)


@pytest.mark.parametrize("overlay", sorted((ROOT / "bundles").glob("*/configs/*.yaml")), ids=lambda path: path.name)
def test_the_overlays_are_allowed(overlay):
    parser = ConfigParser()
    parser.read_config([str(overlay.with_name("train.json")), str(overlay)])
    check_config(parser, overlay)


ATTACKS = {
    "import": "$import os",
    "a package that starts alike": "$import torchvision",
    "import twice": "$import torch, subprocess",
    "import by hand": "$__import__('os').system('x')",
    "function of a package": "$torch.hub.load('x', 'y')",
    "unpickling": "$torch.load('x')",
    "unpickling by numpy": "$np.load('x', allow_pickle=True)",
    "module inside a module": "$monai.data.image_reader.np.load('x')",
    "module inside torch": "$torch.os.system('x')",
    "inner attributes": "$[c for c in ().__class__.__bases__]",
    "globals of a function": "$torch.nn.Module.forward.__globals__",
    "lambda": "$(lambda: 1)()",
    "walrus": "$(x := 1)",
    "getattr": "$getattr(@x, 'y')",
    "open": "$open('x').read()",
    "format": "$'{0.__class__}'.format(1)",
    "a call of what may be anything": "$@x('y')",
    "a call within a loop": "$[f('x') for f in @x]",
    "map over a method": "$map(@x.y, ['a'])",
    "a key function": "$sorted([1], key=@x.y)",
    "a name that shadows a module": "$[monai for monai in [1]] and monai.bundle.run('x')",
    "a module through a choice": "$(torch if 1 else 2).hub.load('x')",
    "another bundle": "$monai.bundle.run('x')",
    "a huge number": "$9**9**9",
    "nonsense": "$1 +",
    "a target outside": {"_target_": "os.system", "command": "x"},
    "a builtin target": {"_target_": "builtins.eval", "x": "1"},
    "a function as target": {"_target_": "torch.load", "f": "x"},
    "a module of a module as target": {"_target_": "monai.data.image_reader.np.load", "file": "x"},
    "a computed target": {"_target_": "$@x"},
    "a target by reference": {"_target_": "@x"},
    "a parser as target": {"_target_": "monai.bundle.ConfigParser", "config": {}},
    "a debugger": {"_target_": "Compose", "_mode_": "debug"},
    "a reader that may unpickle": {"_target_": "LoadImaged", "keys": "a"},
    "a cache that may unpickle": {"_target_": "PersistentDataset"},
    "a missing class": {"_target_": "monai.transforms.NoSuchThing"},
    "a condition": {"_target_": "Compose", "_disabled_": "$__import__('os')"},
    "a function given to a class": {"_target_": "Lambda", "func": "$torch.hub.load"},
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
def test_each_attack_is_refused_with_its_place(attack):
    with pytest.raises(InputError, match=r"entry 'a#0#b[#\w]*' is not run.*--trust"):
        check({"a": [{"b": attack}], "x": 1})


@pytest.mark.parametrize(
    "text", ["$@imports::0.run('x')", "$@imports#0.run('x')", "$@imports[0].run('x')", "@imports#0"]
)
def test_an_import_is_no_value(text):
    """A module that an allowed import has brought would give away all its functions."""
    with pytest.raises(InputError, match=r"entry 'a' is not run, for '@imports.*' is an import"):
        check({"imports": ["$import monai.bundle as b"], "a": text})


def test_a_macro_brings_no_import_as_a_value():
    with pytest.raises(InputError, match="'@b' is an import"):
        check({"imports": ["$import monai.bundle as b"], "b": "%imports#0", "c": "$@b.run('x')"})


def test_all_refused_entries_are_named_at_once():
    with pytest.raises(InputError, match=r"(?s)entry 'a'.*entry 'b'") as caught:
        check({"a": "$open('x')", "b": {"_target_": "os.system"}, "c": "$len([1])"})
    assert "entry 'c'" not in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        "$[torch.float16, torch.channels_last]",
        "$torch.device('cpu') if torch.cuda.is_available() else 'cpu'",
        "$[*filter(None, @x), *map(str, [1])]",
        "$[length // 2 for length in @x]",
        "$f'{len(@x)} cases'",
        "$monai.transforms.Compose",
        {"_target_": "torch.nn.ReLU"},
        {"_target_": "CacheDataset", "data": []},
        {"_target_": "pipeline.metrics.surface.hd95", "_mode_": "callable"},
        "costs $5",
    ],
    ids=str,
)
def test_what_computes_and_builds_is_allowed(entry):
    check({"x": [1], "a": entry})


def bundle(folder, entry):
    """A copy of the 2D bundle whose inference config holds one more entry."""
    config = ConfigParser.load_config_file(str(ROOT / "bundles" / "unet" / "configs" / "inference.json"))
    (folder / "configs").mkdir(parents=True)
    ConfigParser.export_config_file({**config, "initialize": [entry]}, str(folder / "configs" / "inference.json"))
    return folder


def test_predict_runs_no_code_of_a_bundle_from_elsewhere_but_with_trust(tmp_path):
    mark = tmp_path / "mark"
    evil = bundle(tmp_path / "evil", f"$__import__('pathlib').Path('{mark}').touch()")
    with pytest.raises(InputError, match="'initialize#0' is not run"):
        predict_with_bundle(evil, str(tmp_path), str(tmp_path / "out"))
    assert not mark.exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image"):
        predict_with_bundle(evil, str(tmp_path / "empty"), str(tmp_path / "out"), trust=True)
    assert mark.exists()
